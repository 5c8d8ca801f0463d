// `chorale convert`: a checkpoint in fewer bits.
#include "model/checkpoint/convert.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <thread>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "model/catalog.h"

namespace chorale::cli {
namespace {

struct ConvertOptions {
  std::string in;
  std::string out;
  std::string to;
  bool json = false;
};

int64_t BytesOfFolder(const std::string& folder) {
  int64_t bytes = 0;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    if (entry.path().extension() == ".safetensors")
      bytes += static_cast<int64_t>(entry.file_size());
  }
  return bytes;
}

absl::Status Convert(const ConvertOptions& options) {
  ASSIGN_OR_RETURN(const kernels::DType dtype, ParseQuantization(options.to));
  kernels::ThreadPool pool(std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
  const absl::Time begin = absl::Now();
  {
    ProgressLine line;
    RETURN_IF_ERROR(ConvertCheckpoint(options.in, options.out, dtype, pool, [&](double share) {
      line.Show(share, absl::StrFormat("converting to %s", options.to));
    }));
  }
  const int64_t before = BytesOfFolder(options.in), after = BytesOfFolder(options.out);
  if (options.json) {
    absl::PrintF("%s\n", DumpJson({{"folder", options.out},
                                   {"to", options.to},
                                   {"weight_bytes_before", before},
                                   {"weight_bytes", after}}));
  } else {
    absl::PrintF("%s: %s weights of %.1f MB, %.1f MB before, after %s\n", options.out, options.to,
                 after / 1e6, before / 1e6, Readable(absl::Now() - begin));
  }
  return absl::OkStatus();
}

}  // namespace

void AddConvert(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<ConvertOptions>();
  CLI::App* convert = app.add_subcommand("convert", "write a checkpoint in fewer bits");
  convert->add_option("IN", options->in, "folder of a Hugging Face checkpoint")->required();
  convert->add_option("OUT", options->out, "folder to write; must not exist")->required();
  convert->add_option("--to", options->to, "int8 or int4")
      ->required()
      ->check(CLI::IsMember({"int8", "int4"}));
  convert->add_flag("--json", options->json, "print one JSON object");
  convert->footer("Example: chorale convert models/base base-int4 --to int4");
  convert->callback([options, &chosen] {
    chosen = [options] {
      const absl::Status status = Convert(*options);
      return status.ok() ? 0 : Fail(status);
    };
  });
}

}  // namespace chorale::cli
