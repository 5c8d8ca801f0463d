#include "services/worker/worker_flags.h"

namespace chorale {

void AddWorkerFlags(CLI::App& app, WorkerOptions& options) {
  const auto named = [](const std::string& flag, NamedFolder& target) {
    return [flag, &target](const std::string& text) {
      absl::StatusOr<NamedFolder> parsed = ParseNamedFolder(flag, text);
      if (!parsed.ok()) throw CLI::ValidationError(std::string(parsed.status().message()));
      target = *std::move(parsed);
    };
  };
  app.add_option_function<std::string>("--model", named("--model", options.model),
                                       "NAME=FOLDER of a Hugging Face checkpoint")
      ->required();
  app.add_option_function<std::vector<std::string>>(
      "--adapter",
      [&options, named](const std::vector<std::string>& texts) {
        for (const std::string& text : texts) {
          NamedFolder adapter;
          named("--adapter", adapter)(text);
          options.adapters.push_back(std::move(adapter));
        }
      },
      "NAME=FOLDER of a PEFT adapter for the model; repeatable");
  app.add_option("--kernels", options.kernels, "cpu, reference, or a full name")
      ->capture_default_str();
  app.add_option("--dtype", options.dtype, "weights and K/V: auto, f32 or bf16")
      ->capture_default_str();
  app.add_option("--threads", options.threads, "compute threads; 0: one for every processor")
      ->check(CLI::Range(0, 1024));
  CLI::Option* blocks =
      app.add_option("--blocks", options.engine.blocks, "K/V blocks of 16 tokens; 0: by --kv-mib")
          ->check(CLI::Range(0, 1 << 26));
  app.add_option("--kv-mib", options.kv_mib, "memory for K/V blocks; 0: 512 MiB")
      ->check(CLI::Range(0, 1 << 30))
      ->excludes(blocks);
  app.add_option("--step-tokens", options.engine.step_tokens_max, "rows of one batch")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 16));
  app.add_option("--chunk-tokens", options.engine.chunk_tokens_max, "of one prompt in one batch")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 16));
  app.add_option("--sequences", options.engine.sequences_max, "running at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 16));
  app.add_option("--waiting", options.engine.waiting_max, "queued; more are refused")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
}

}  // namespace chorale
