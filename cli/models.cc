// `chorale models`: what a cluster can be asked for.
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/output.h"

namespace chorale::cli {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(5);

struct ModelsOptions {
  ClusterFlags cluster;
  bool json = false;
};

absl::Status Models(const ModelsOptions& options) {
  ASSIGN_OR_RETURN(const std::string router, FindRouter(options.cluster));
  ASSIGN_OR_RETURN(const v1::ListModelsResponse response,
                   RouterClient(router).ListModels(kCallTimeout));
  if (options.json) {
    Json models = Json::array();
    for (const auto& model : response.models()) {
      models.push_back({{"name", model.name()},
                        {"base", model.base()},
                        {"context_tokens", model.context_tokens()},
                        {"prefill_workers", model.prefill_workers()},
                        {"decode_workers", model.decode_workers()}});
    }
    absl::PrintF("%s\n", DumpJson({{"models", models}}));
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows = {
      {"MODEL", "ADAPTER OF", "CONTEXT TOKENS", "PREFILL WORKERS", "DECODE WORKERS"}};
  for (const auto& model : response.models()) {
    rows.push_back({model.name(), model.base().empty() ? "-" : model.base(),
                    absl::StrCat(model.context_tokens()), absl::StrCat(model.prefill_workers()),
                    absl::StrCat(model.decode_workers())});
  }
  absl::PrintF("%s", Table(rows));
  return absl::OkStatus();
}

}  // namespace

void AddModels(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<ModelsOptions>();
  CLI::App* models = app.add_subcommand("models", "list the models that can be asked for");
  AddClusterFlags(*models, options->cluster);
  models->add_flag("--json", options->json, "print one JSON object");
  models->footer("Example: chorale models --json");
  models->callback([options, &chosen] {
    chosen = [options] {
      const absl::Status status = Models(*options);
      return status.ok() ? 0 : Fail(status);
    };
  });
}

}  // namespace chorale::cli
