// What the modes cost a decode step, in the engine, on random weights of the 125 M shape:
//
//   icarus   a step with a writer and a reader row against a plain adapter's step, at batch 1
//   adapters a batch of as many adapters as rows against a batch of one adapter
//   qsun     the shared decode base in int8 and int4 against bf16
//
// Both sides of a comparison take turns of a few steps, in turns the one and the other first, and a
// ratio is the median of the turns' ratios: what else the machine does hits both. Beside each
// figure stands what it would be if reading the step's weights once from memory were all there is
// to it.
//
// With --write-family it writes the models that bench/sun.py serves, with --counters it prints a
// worker's counters, for the same.
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/json.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "bench/ceilings.h"
#include "bench/fixtures/modes_family.h"
#include "engine/engine.h"
#include "model/model_loader.h"

namespace chorale::bench {
namespace {

constexpr int kTurnSteps = 8;

struct Options {
  std::string kernels = "cpu";
  int threads = 0;  // 0: one for every processor
  int output_tokens = 64;
  int repeat = 10;
  bool json = false;
  std::string family_folder;  // set: write a family there, measure nothing
  int models = 8;             // of the family
  std::string counters_of;    // set: the address of a worker, measure nothing
};

// Two batches to be compared; a batch has one row for each model in it.
struct Comparison {
  std::string metric;
  Models subject;
  std::string peer_name;
  Models peer;
  bool as_rate = false;  // tokens/s, else ms a step

  double FigureOf(double step_ms) const {
    return as_rate ? 1000 * subject.size() / step_ms : step_ms;
  }
};

struct Result {
  std::string metric;
  double value = 0;
  std::string unit;
  std::string peer_name;
  double peer_value = 0;
  double ratio = 0;
  double limit = 0;  // of value, set by memory
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

// Bytes of the weights that a decode step of this batch reads, each counted once.
int64_t BytesOfStep(const Models& batch) {
  std::set<const Transformer*> bases;
  std::set<const Adapter*> adapters;
  for (const auto& model : batch) {
    bases.insert(model->predictor.transformer.get());
    for (const Module* module : {&model->output_writer, &model->predictor}) {
      if (module->adapter != nullptr) adapters.insert(module->adapter.get());
    }
  }
  int64_t bytes = 0;
  for (const Transformer* base : bases) {
    bytes += base->weights().output_or_embedding().data.bytes();
    for (const LayerWeights& layer : base->weights().layers) {
      for (const auto* matrix : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
        bytes += matrix->data.bytes();
      }
    }
  }
  for (const Adapter* adapter : adapters) {
    for (const auto& layer : adapter->layers) {
      for (const LowRank& update : layer) bytes += update.a.data.bytes() + update.b.data.bytes();
    }
  }
  return bytes;
}

// A batch whose rows all decode, from prompts of one token.
class Decoding {
 public:
  // Runs the first step, which touches all memory.
  Decoding(const Models& batch, int output_tokens, const ModelLoader& loader,
           kernels::ThreadPool& pool)
      : engine_({.blocks = static_cast<int>(batch.size()) * (output_tokens / 16 + 2)},
                loader.base().transformer, pool, nullptr) {
    const int vocab = loader.base().transformer->config().vocab;
    for (size_t i = 0; i < batch.size(); ++i) {
      engine_.SetModel(batch[i]);
      GenerateRequest request{.id = i + 1, .model = batch[i]->name, .reuse_prefix = false};
      request.prompt = {static_cast<TokenId>(RandomBits(1, 0, i) % vocab)};
      request.sampling.temperature = 0;
      request.sampling.max_tokens = output_tokens + 1;
      request.sampling.ignore_eos = true;
      CHECK(engine_.Submit(std::move(request)).ok());
    }
    StepMs(1);
  }

  // Milliseconds of one of the next `steps` steps.
  double StepMs(int steps) {
    const absl::Time begin = absl::Now();
    for (int i = 0; i < steps; ++i) {
      events_.clear();
      CHECK(engine_.Step(absl::Now(), events_));
    }
    return absl::ToDoubleMilliseconds(absl::Now() - begin) / steps;
  }

 private:
  Engine engine_;
  std::vector<EngineEvent> events_;
};

std::vector<Comparison> Comparisons(const Models& models) {
  const auto named = [&](const std::string& name) {
    const auto is_it = [&](const auto& model) { return model->name == name; };
    return *std::find_if(models.begin(), models.end(), is_it);
  };
  const auto each = [&](const std::string& letter) {
    Models batch;
    for (int i = 0; i < kAdapters; ++i) batch.push_back(named(absl::StrCat(letter, i)));
    return batch;
  };
  std::vector<Comparison> all = {
      {"icarus decode, batch 1", {named("i0")}, "plain adapter", {named("a0")}},
      {"plain decode, batch 8 of 8 adapters", each("a"), "of 1 adapter",
       Models(kAdapters, named("a0"))},
      {"icarus decode, batch 8 of 8 adapters", each("i"), "of 1 adapter",
       Models(kAdapters, named("i0"))}};
  for (int batch : {1, 8, 16}) {
    for (int bits : {8, 4}) {
      all.push_back({.metric = absl::StrFormat("sun decode on int%d, batch %d", bits, batch),
                     .subject = Models(batch, named(absl::StrCat("sun", bits))),
                     .peer_name = "bf16",
                     .peer = Models(batch, named("sun16")),
                     .as_rate = true});
    }
  }
  return all;
}

Result Measure(const Options& options, const Comparison& comparison, const ModelLoader& loader,
               kernels::ThreadPool& pool) {
  std::vector<double> values;
  std::vector<double> peers;
  std::vector<double> ratios;
  for (int run = 0; run < options.repeat; ++run) {
    Decoding subject(comparison.subject, options.output_tokens, loader, pool);
    Decoding peer(comparison.peer, options.output_tokens, loader, pool);
    for (int done = 0; done + kTurnSteps <= options.output_tokens; done += kTurnSteps) {
      const bool subject_first = done / kTurnSteps % 2 == 0;
      if (subject_first) values.push_back(comparison.FigureOf(subject.StepMs(kTurnSteps)));
      peers.push_back(comparison.FigureOf(peer.StepMs(kTurnSteps)));
      if (!subject_first) values.push_back(comparison.FigureOf(subject.StepMs(kTurnSteps)));
      ratios.push_back(values.back() / peers.back());
    }
  }
  return {.metric = comparison.metric,
          .value = Median(values),
          .unit = comparison.as_rate ? "tokens/s" : "ms/step",
          .peer_name = comparison.peer_name,
          .peer_value = Median(peers),
          .ratio = Median(ratios)};
}

void Print(const std::vector<Result>& results, bool json) {
  Json list = Json::array();
  if (!json) {
    absl::PrintF("%-38s %19s %21s %10s  ratio\n", "FIGURE", "MEASURED", "AGAINST", "LIMIT");
  }
  for (const Result& r : results) {
    list.push_back({{"metric", r.metric},
                    {"value", r.value},
                    {"unit", r.unit},
                    {"peer", r.peer_name},
                    {"peer_value", r.peer_value},
                    {"ratio", r.ratio},
                    {"limit", r.limit}});
    if (json) continue;
    absl::PrintF("%-38s %10.2f %-8s %13s %7.2f %10.2f  %.2f\n", r.metric, r.value, r.unit,
                 r.peer_name, r.peer_value, r.limit, r.ratio);
  }
  if (json) absl::PrintF("%s\n", list.dump(1));
}

absl::Status MeasureModes(const Options& options) {
  std::string folder = (std::filesystem::temp_directory_path() / "chorale-modes-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) {
    return absl::UnavailableError(absl::StrCat(folder, ": ", std::strerror(errno)));
  }
  const auto remove = absl::MakeCleanup([&] {
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
  });
  const int processors = static_cast<int>(std::thread::hardware_concurrency());
  const int threads = options.threads > 0 ? options.threads : std::max(1, processors);
  kernels::ThreadPool pool(threads);
  Transformer::Options model_options;
  ASSIGN_OR_RETURN(model_options.kernels, kernels::FindKernels(options.kernels));
  RETURN_IF_ERROR(WriteBase(folder + "/base"));
  ASSIGN_OR_RETURN(const ModelLoader loader,
                   ModelLoader::Open(folder + "/base", model_options, pool, nullptr));
  ASSIGN_OR_RETURN(const Models models, LoadModes(folder, loader, pool));
  const std::vector<Comparison> comparisons = Comparisons(models);
  std::vector<Result> results;
  double dram_gbps = 0;  // the best of several moments: others may disturb any one
  for (const Comparison& comparison : comparisons) {
    absl::FPrintF(stderr, "%s\n", comparison.metric);
    dram_gbps = std::max(dram_gbps, MeasureDramReadGBps(threads));
    results.push_back(Measure(options, comparison, loader, pool));
  }
  for (size_t i = 0; i < results.size(); ++i) {
    const double step_ms = BytesOfStep(comparisons[i].subject) / (dram_gbps * 1e6);
    results[i].limit = comparisons[i].FigureOf(step_ms);
  }
  absl::FPrintF(stderr, "%s kernels on %d threads; this machine reads %.1f GB/s\n",
                loader.base().transformer->kernels().name, threads, dram_gbps);
  Print(results, options.json);
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("bench_modes: what the modes cost a decode step, on random weights (125 M)");
  app.add_option("--kernels", options.kernels, "cpu, reference, or a full name")
      ->capture_default_str();
  app.add_option("--threads", options.threads, "0: one for every processor")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--output-tokens", options.output_tokens, "steps of one run")
      ->check(CLI::Range(kTurnSteps, 4000))
      ->capture_default_str();
  app.add_option("--repeat", options.repeat, "runs of each comparison")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  app.add_flag("--json", options.json, "print a list of JSON objects");
  app.add_option("--write-family", options.family_folder,
                 "write the models of bench/sun.py into this folder, and measure nothing");
  app.add_option("--models", options.models, "of that family")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--counters", options.counters_of,
                 "print the counters of the worker at this address, and measure nothing");
  CLI11_PARSE(app, argc, argv);
  absl::Status status;
  if (!options.family_folder.empty()) {
    status = WriteFamily(options.family_folder, options.models);
  } else if (!options.counters_of.empty()) {
    status = PrintWorkerCounters(options.counters_of);
  } else {
    status = MeasureModes(options);
  }
  if (status.ok()) return 0;
  absl::FPrintF(stderr, "error: %s\n", std::string(status.message()));
  return 1;
}

}  // namespace
}  // namespace chorale::bench

int main(int argc, char** argv) { return chorale::bench::Main(argc, argv); }
