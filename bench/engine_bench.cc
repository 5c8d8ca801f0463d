#include "bench/engine_bench.h"

#include <algorithm>
#include <memory>
#include <thread>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "bench/ceilings.h"
#include "engine/engine.h"
#include "model/checkpoint/random_checkpoint.h"

namespace chorale::bench {
namespace {

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double Percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(share * values.size()))];
}

std::vector<TokenId> RandomPrompt(int tokens, int vocab, uint64_t stream) {
  std::vector<TokenId> prompt(tokens);
  for (int i = 0; i < tokens; ++i) prompt[i] = RandomBits(1, stream, i) % vocab;
  return prompt;
}

// Weights that every token reads, and the multiply-adds of one token through them.
struct Work {
  int64_t layer_weights = 0;
  int64_t logit_weights = 0;
};

Work WorkOf(const ModelConfig& c) {
  const int64_t attention = int64_t{c.hidden} * (2 * c.q_size() + 2 * c.kv_size());
  return {.layer_weights = c.layers * (attention + 3 * int64_t{c.hidden} * c.ffn),
          .logit_weights = int64_t{c.hidden} * c.vocab};
}

class EngineBench {
 public:
  EngineBench(const EngineBenchOptions& options, std::shared_ptr<const Transformer> base,
              kernels::ThreadPool& pool)
      : options_(options), base_(std::move(base)), pool_(pool) {}

  // Tokens per second of writing one prompt's K/V.
  double Prefill() {
    const auto engine = MakeEngine(EngineOptionsFor(options_.prompt_tokens));
    PrefillRequest request{.id = 1,
                           .model = kModel,
                           .tokens = RandomPrompt(options_.prompt_tokens, Vocab(), stream_++),
                           .reuse_prefix = false};
    CHECK(engine->Submit(std::move(request)).ok());
    const absl::Time begin = absl::Now();
    Drain(*engine);
    return options_.prompt_tokens / absl::ToDoubleSeconds(absl::Now() - begin);
  }

  // Tokens per second of `batch` sequences decoding together from a one-token prompt.
  double Decode(int batch) {
    const auto engine = MakeEngine(EngineOptionsFor(batch));
    for (int i = 0; i < batch; ++i) SubmitDecode(*engine, i + 1, 1, options_.output_tokens);
    const absl::Time begin = absl::Now();
    Drain(*engine);
    return batch * options_.output_tokens / absl::ToDoubleSeconds(absl::Now() - begin);
  }

  // Gaps in milliseconds between the tokens of 8 streams while 4 prompts of 1,024 tokens arrive.
  std::vector<double> Gaps() {
    constexpr int kStreams = 8;
    constexpr int kPrompts = 4;
    const auto engine = MakeEngine({.blocks = 1024});
    for (int i = 0; i < kStreams; ++i) SubmitDecode(*engine, i + 1, 32, 200);
    std::vector<absl::Time> last(kStreams + kPrompts + 1, absl::InfinitePast());
    std::vector<double> gaps;
    std::vector<EngineEvent> events;
    int steps = 0;
    while (engine->Step(absl::Now(), events)) {
      const absl::Time now = absl::Now();
      for (const EngineEvent& event : events) {
        const auto* token = std::get_if<TokenEvent>(&event);
        if (token == nullptr || token->id > kStreams) continue;
        if (last[token->id] != absl::InfinitePast()) {
          gaps.push_back(absl::ToDoubleMilliseconds(now - last[token->id]));
        }
        last[token->id] = now;
      }
      events.clear();
      if (++steps == 40) {
        for (int i = 0; i < kPrompts; ++i) SubmitDecode(*engine, kStreams + 1 + i, 1024, 16);
      }
    }
    return gaps;
  }

 private:
  static constexpr char kModel[] = "m";

  int Vocab() const { return base_->config().vocab; }

  std::unique_ptr<Engine> MakeEngine(const EngineOptions& options) const {
    auto engine = std::make_unique<Engine>(options, base_, pool_, nullptr);
    engine->SetModel(*MakeModel(kModel, Mode::kStandard, {base_}, {base_}, {base_}));
    return engine;
  }

  EngineOptions EngineOptionsFor(int rows) const {
    return {.blocks = 1024,
            .step_tokens_max = std::max(rows, options_.prompt_tokens),
            .chunk_tokens_max = options_.prompt_tokens,
            .sequences_max = std::max(rows, 1)};
  }

  void SubmitDecode(Engine& engine, RequestId id, int prompt_tokens, int output_tokens) {
    GenerateRequest request{.id = id,
                            .model = kModel,
                            .prompt = RandomPrompt(prompt_tokens, Vocab(), stream_++),
                            .reuse_prefix = false};
    request.sampling.temperature = 0;
    request.sampling.max_tokens = output_tokens;
    request.sampling.ignore_eos = true;
    const absl::Status status = engine.Submit(std::move(request));
    CHECK(status.ok()) << status.message();
  }

  void Drain(Engine& engine) {
    std::vector<EngineEvent> events;
    while (engine.Step(absl::Now(), events)) events.clear();
  }

  const EngineBenchOptions& options_;
  const std::shared_ptr<const Transformer> base_;
  kernels::ThreadPool& pool_;
  uint64_t stream_ = 0;
};

}  // namespace

ModelConfig Shape125M() {
  return {.architecture = "LlamaForCausalLM",
          .layers = 12,
          .hidden = 768,
          .heads = 12,
          .kv_heads = 4,
          .head_dim = 64,
          .ffn = 2048,
          .vocab = 32000,
          .positions_max = 4096,
          .norm_eps = 1e-5f};
}

absl::StatusOr<EngineBenchResult> RunEngineBench(const EngineBenchOptions& options,
                                                 const BenchProgress& progress) {
  const int threads = options.threads > 0
                          ? options.threads
                          : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  Transformer::Options model_options;
  ASSIGN_OR_RETURN(model_options.kernels, kernels::FindKernels(options.kernels));
  const bool bf16 = options.dtype == "bf16";
  model_options.dtype = bf16 ? kernels::DType::kBF16 : kernels::DType::kF32;

  progress(0, "making random weights");
  kernels::ThreadPool pool(threads);
  ASSIGN_OR_RETURN(
      std::shared_ptr<const Transformer> model,
      MakeRandomTransformer(options.config, *model_options.dtype, 1, model_options, pool));
  progress(0.05, "measuring the machine");
  EngineBenchResult result{.kernels = std::string(model->kernels().name), .threads = threads};
  result.dram_gbps = MeasureDramReadGBps(threads);
  result.gflops = bf16 ? MeasureBf16Gflops(threads) : 0;
  if (result.gflops == 0) result.gflops = MeasureF32Gflops(threads);

  EngineBench bench(options, model, pool);
  const Work work = WorkOf(options.config);
  const int64_t weight_bytes =
      (work.layer_weights + work.logit_weights) * kernels::BytesOf(*model_options.dtype);
  std::vector<double> prefill;
  std::vector<std::vector<double>> decode(options.batches.size());
  for (int run = 0; run < options.repeat; ++run) {
    progress(0.1 + 0.8 * run / options.repeat,
             absl::StrFormat("run %d of %d", run + 1, options.repeat));
    prefill.push_back(bench.Prefill());
    for (size_t i = 0; i < options.batches.size(); ++i) {
      decode[i].push_back(bench.Decode(options.batches[i]));
    }
  }
  result.figures.push_back({.metric = absl::StrFormat("prefill %d", options.prompt_tokens),
                            .value = Median(prefill),
                            .unit = "tokens/s",
                            .limit = result.gflops * 1e9 / (2.0 * work.layer_weights),
                            .limit_is = "FLOP"});
  for (size_t i = 0; i < options.batches.size(); ++i) {
    const int batch = options.batches[i];
    const double by_dram = batch * result.dram_gbps * 1e9 / weight_bytes;
    const double by_flop = result.gflops * 1e9 / (2.0 * (work.layer_weights + work.logit_weights));
    result.figures.push_back(
        {.metric = absl::StrFormat("decode %d, batch %d", options.output_tokens, batch),
         .value = Median(decode[i]),
         .unit = "tokens/s",
         .limit = std::min(by_dram, by_flop),
         .limit_is = by_dram < by_flop ? "DRAM" : "FLOP"});
  }
  if (options.gaps) {
    progress(0.9, "measuring gaps between tokens");
    const std::vector<double> gaps = bench.Gaps();
    result.figures.push_back(
        {.metric = "gap between tokens, p50", .value = Median(gaps), .unit = "ms"});
    result.figures.push_back(
        {.metric = "gap between tokens, p99", .value = Percentile(gaps, 0.99), .unit = "ms"});
    result.figures.push_back(
        {.metric = "gap between tokens, max", .value = Percentile(gaps, 1), .unit = "ms"});
  }
  return result;
}

}  // namespace chorale::bench
