// `chorale bench engine`: tokens per second on random weights, beside what this machine could do.
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/json.h"
#include "bench/engine_bench.h"
#include "cli/commands.h"
#include "cli/output.h"

namespace chorale::cli {
namespace {

struct BenchOptions {
  bench::EngineBenchOptions engine{.config = bench::Shape125M()};
  bool json = false;
};

Json ToJson(const bench::EngineBenchResult& result) {
  Json figures = Json::array();
  for (const bench::Figure& figure : result.figures) {
    figures.push_back({{"metric", figure.metric},
                       {"value", figure.value},
                       {"unit", figure.unit},
                       {"limit", figure.limit},
                       {"limit_is", figure.limit_is}});
  }
  return {{"kernels", result.kernels},
          {"threads", result.threads},
          {"dram_gbps", result.dram_gbps},
          {"gflops", result.gflops},
          {"figures", figures}};
}

std::string ToText(const BenchOptions& options, const bench::EngineBenchResult& result) {
  std::vector<std::vector<std::string>> rows = {
      {"FIGURE", "MEASURED", "CEILING", "SHARE", "SET BY"}};
  for (const bench::Figure& figure : result.figures) {
    const bool limited = figure.limit > 0;
    rows.push_back({figure.metric, absl::StrFormat("%.1f %s", figure.value, figure.unit),
                    limited ? absl::StrFormat("%.0f", figure.limit) : "-",
                    limited ? absl::StrFormat("%.0f %%", 100 * figure.value / figure.limit) : "-",
                    limited ? figure.limit_is : "-"});
  }
  const ModelConfig& c = options.engine.config;
  return absl::StrFormat(
             "shape %dx%d, %d heads, %d KV heads, ffn %d, vocabulary %d, random %s weights\n"
             "%s kernels on %d threads; this machine reads %.1f GB/s and computes %.0f GFLOP/s\n\n",
             c.hidden, c.layers, c.heads, c.kv_heads, c.ffn, c.vocab, options.engine.dtype,
             result.kernels, result.threads, result.dram_gbps, result.gflops) +
         Table(rows);
}

int BenchEngine(const BenchOptions& options) {
  absl::StatusOr<bench::EngineBenchResult> result = absl::UnknownError("");
  {
    ProgressLine line;
    result = bench::RunEngineBench(options.engine, [&](double fraction, const std::string& text) {
      line.Show(fraction, text);
    });
  }
  if (!result.ok()) return Fail(result.status());
  absl::PrintF("%s", options.json ? DumpJson(ToJson(*result)) + "\n" : ToText(options, *result));
  return 0;
}

}  // namespace

void AddBench(CLI::App& app, Command& chosen) {
  CLI::App* bench = app.add_subcommand("bench", "measure this machine");
  bench->require_subcommand(1);
  auto options = std::make_shared<BenchOptions>();
  bench::EngineBenchOptions& engine = options->engine;
  CLI::App* sub = bench->add_subcommand(
      "engine", "prefill and decode tokens/s on random weights of the 125 M shape");
  sub->add_option("--kernels", engine.kernels, "reference, cpu, or a full name such as cpu-avx2")
      ->capture_default_str();
  sub->add_option("--dtype", engine.dtype, "of weights and K/V")
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->capture_default_str();
  sub->add_option("--threads", engine.threads, "0: one for every processor")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  sub->add_option("--prompt-tokens", engine.prompt_tokens)
      ->check(CLI::Range(1, 4000))
      ->capture_default_str();
  sub->add_option("--output-tokens", engine.output_tokens)
      ->check(CLI::Range(1, 4000))
      ->capture_default_str();
  sub->add_option("--batch", engine.batches, "sequences that decode together; may be repeated")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  sub->add_option("--repeat", engine.repeat, "figures are medians of so many runs")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  sub->add_flag("!--no-gaps", engine.gaps, "leave out the gaps between tokens");
  sub->add_flag("--json", options->json, "print one JSON object");
  sub->footer("Example: chorale bench engine --threads 2");
  sub->callback([options, &chosen] { chosen = [options] { return BenchEngine(*options); }; });
}

}  // namespace chorale::cli
