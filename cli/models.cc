// `chorale models`: what a cluster can be asked for, and how that is changed while it serves.
#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "model/module.h"

namespace chorale::cli {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(5);

struct ModelsOptions {
  ClusterFlags cluster;
  bool json = false;
  // load, unload
  v1::ModelSpec spec;
  std::string decoder;  // int8, int4
  double drain_seconds = 10;
  int timeout_s = 600;
};

std::string ShortDigest(const std::string& bytes) {
  const absl::StatusOr<Digest> digest = Digest::FromBytes(bytes);
  return digest.ok() ? digest->Short() : "-";
}

// The sampling fields that a model's files set.
Json DefaultsJson(const v1::Sampling& sampling) {
  Json json = Json::object();
  if (sampling.has_temperature()) json["temperature"] = sampling.temperature();
  if (sampling.has_top_k()) json["top_k"] = sampling.top_k();
  if (sampling.has_top_p()) json["top_p"] = sampling.top_p();
  if (sampling.has_min_p()) json["min_p"] = sampling.min_p();
  if (sampling.has_repetition_penalty()) {
    json["repetition_penalty"] = sampling.repetition_penalty();
  }
  if (sampling.has_max_tokens()) json["max_tokens"] = sampling.max_tokens();
  for (const std::string& stop : sampling.stop()) json["stop"].push_back(stop);
  return json;
}

absl::Status List(const ModelsOptions& options) {
  ASSIGN_OR_RETURN(const std::string router, FindRouter(options.cluster));
  ASSIGN_OR_RETURN(const v1::ListModelsResponse response,
                   RouterClient(router).ListModels(kCallTimeout));
  if (options.json) {
    Json models = Json::array();
    for (const auto& model : response.models()) {
      models.push_back(
          {{"name", model.name()},
           {"mode", model.mode()},
           {"version", ShortDigest(model.digest())},
           {"context_tokens", model.context_tokens()},
           {"context_reason", model.context_reason()},
           {"attention", model.attention()},
           {"defaults", DefaultsJson(model.defaults())},
           {"notes", std::vector<std::string>(model.notes().begin(), model.notes().end())},
           {"prefill_workers", model.prefill_workers()},
           {"decode_workers", model.decode_workers()}});
    }
    absl::PrintF("%s\n", DumpJson({{"models", models}}));
    return absl::OkStatus();
  }
  std::vector<std::vector<std::string>> rows = {
      {"MODEL", "MODE", "VERSION", "PREFILL, DECODE WORKERS", "CONTEXT", "SET BY", "ATTENTION"}};
  for (const auto& model : response.models()) {
    rows.push_back({model.name(), model.mode(), ShortDigest(model.digest()),
                    absl::StrCat(model.prefill_workers(), ", ", model.decode_workers()),
                    absl::StrCat(model.context_tokens()), model.context_reason(),
                    model.attention()});
  }
  absl::PrintF("%s", Table(rows));
  for (const auto& model : response.models()) {
    if (const Json defaults = DefaultsJson(model.defaults()); !defaults.empty()) {
      absl::PrintF("%s: unless a request says otherwise, %s\n", model.name(), DumpJson(defaults));
    }
    for (const std::string& note : model.notes()) absl::PrintF("%s: %s\n", model.name(), note);
  }
  return absl::OkStatus();
}

void Print(const std::string& name, const v1::ModelChanges& changes, bool json) {
  Json workers = Json::array();
  for (const auto& worker : changes.workers()) {
    const v1::ModelChange& change = worker.change();
    workers.push_back({{"worker_id", worker.worker_id()},
                       {"version", ShortDigest(change.digest())},
                       {"changed", change.changed()},
                       {"requests_ended", change.requests_ended()}});
    if (json) continue;
    absl::PrintF("%s: model %s %s", worker.worker_id(), name,
                 !change.changed()         ? "was the same already"
                 : change.digest().empty() ? "is unloaded"
                                           : "is now version " + ShortDigest(change.digest()));
    if (change.requests_ended() > 0) {
      absl::PrintF("; %d requests on the former one were ended", change.requests_ended());
    }
    absl::PrintF("\n");
  }
  if (json) absl::PrintF("%s\n", DumpJson({{"model", name}, {"workers", workers}}));
}

absl::Status CheckTimes(const ModelsOptions& options) {
  if (options.drain_seconds < options.timeout_s) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("--drain-seconds %g: must be less than --timeout-seconds %d",
                      options.drain_seconds, options.timeout_s));
}

absl::Status Load(ModelsOptions options) {
  RETURN_IF_ERROR(CheckTimes(options));
  ASSIGN_OR_RETURN(const std::string orchestrator, FindOrchestrator(options.cluster));
  v1::LoadModelRequest request;
  *request.mutable_model() = options.spec;
  v1::ModuleSpec& module = *request.mutable_model()->mutable_module();
  for (std::string* folder : {module.mutable_weights(), module.mutable_adapter()}) {
    if (!folder->empty()) *folder = std::filesystem::absolute(*folder).lexically_normal().string();
  }
  if (!options.decoder.empty()) {
    request.mutable_model()->mutable_decoder()->set_quantize(options.decoder);
  }
  request.set_drain_ms(static_cast<int64_t>(1000 * options.drain_seconds));
  ASSIGN_OR_RETURN(const v1::ModelChanges changes,
                   LoadModel(orchestrator, request, absl::Seconds(options.timeout_s)));
  Print(options.spec.name(), changes, options.json);
  return absl::OkStatus();
}

absl::Status Unload(const ModelsOptions& options) {
  RETURN_IF_ERROR(CheckTimes(options));
  ASSIGN_OR_RETURN(const std::string orchestrator, FindOrchestrator(options.cluster));
  v1::UnloadModelRequest request;
  request.set_name(options.spec.name());
  request.set_drain_ms(static_cast<int64_t>(1000 * options.drain_seconds));
  ASSIGN_OR_RETURN(const v1::ModelChanges changes,
                   UnloadModel(orchestrator, request, absl::Seconds(options.timeout_s)));
  Print(options.spec.name(), changes, options.json);
  return absl::OkStatus();
}

template <typename Fn>
void SetCallback(CLI::App* command, std::shared_ptr<ModelsOptions> options, Command& chosen,
                 Fn run) {
  command->callback([options, run, &chosen] {
    chosen = [options, run] {
      const absl::Status status = run(*options);
      return status.ok() ? 0 : Fail(status);
    };
  });
}

CLI::App* AddChange(CLI::App& models, const char* name, const char* what, ModelsOptions& options) {
  CLI::App* command = models.add_subcommand(name, what);
  command
      ->add_option_function<std::string>(
          "NAME", [&options](const std::string& text) { options.spec.set_name(text); },
          "name of the model")
      ->required();
  command
      ->add_option("--drain-seconds", options.drain_seconds,
                   "how long requests on what the name stood for may go on")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 3600.0));
  command->add_option("--timeout-seconds", options.timeout_s, "give up when not done by then")
      ->capture_default_str()
      ->check(CLI::Range(1, 86'400));
  AddRunDirFlag(*command, options.cluster);
  command->add_flag("--json", options.json, "print one JSON object");
  return command;
}

void AddLoad(CLI::App& models, Command& chosen) {
  auto options = std::make_shared<ModelsOptions>();
  CLI::App* load =
      AddChange(models, "load", "load a model, or replace the one of this name", *options);
  load->add_option_function<std::string>(
          "--mode", [options](const std::string& mode) { options->spec.set_mode(mode); },
          "standard, prefillshare, sun or icarus; default: standard")
      ->check(CLI::IsMember(ModeNames()));
  CLI::Option* adapter = load->add_option_function<std::string>(
      "--adapter",
      [options](const std::string& folder) { options->spec.mutable_module()->set_adapter(folder); },
      "FOLDER of a PEFT adapter on the base");
  load->add_option_function<std::string>(
          "--weights",
          [options](const std::string& folder) {
            options->spec.mutable_module()->set_weights(folder);
          },
          "FOLDER of a fine-tuned checkpoint of the base's shape")
      ->excludes(adapter);
  load->add_option("--decoder", options->decoder, "of mode sun: the base in int8 or int4")
      ->check(CLI::IsMember({"int8", "int4"}));
  load->footer("Example: chorale models load coder --mode icarus --adapter coder/icarus");
  SetCallback(load, options, chosen, Load);
}

void AddUnload(CLI::App& models, Command& chosen) {
  auto options = std::make_shared<ModelsOptions>();
  CLI::App* unload = AddChange(models, "unload", "serve a model no longer", *options);
  unload->footer("Example: chorale models unload coder");
  SetCallback(unload, options, chosen, Unload);
}

}  // namespace

void AddModels(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<ModelsOptions>();
  CLI::App* models = app.add_subcommand("models", "list, load and unload models");
  AddClusterFlags(*models, options->cluster);
  models->add_flag("--json", options->json, "print one JSON object");
  models->footer("Example: chorale models --json");
  AddLoad(*models, chosen);
  AddUnload(*models, chosen);
  models->callback([options, models, &chosen] {
    if (!models->get_subcommands().empty()) return;
    chosen = [options] {
      const absl::Status status = List(*options);
      return status.ok() ? 0 : Fail(status);
    };
  });
}

}  // namespace chorale::cli
