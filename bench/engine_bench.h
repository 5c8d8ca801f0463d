// The engine alone, on random weights: tokens per second of prefill and decode, and the gaps
// between tokens while prompts arrive, beside what the machine could do at best.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/checkpoint/config.h"

namespace chorale::bench {

struct EngineBenchOptions {
  ModelConfig config;          // the shape; its weights are random
  std::string dtype = "bf16";  // bf16 or f32
  std::string kernels = "cpu";
  int threads = 0;  // 0: one for every processor
  int prompt_tokens = 512;
  int output_tokens = 128;
  std::vector<int> batches = {1, 8, 32};
  int repeat = 3;  // figures are medians of so many runs
  bool gaps = true;
};

// The shape that the project's figures are given for: 768 x 12, 12 heads, 4 KV heads, ffn 2048,
// vocabulary 32000: 125 million parameters, of which a token reads 100 million.
ModelConfig Shape125M();

// One measured figure and the ceiling of this machine for it (0: none applies).
struct Figure {
  std::string metric;
  double value = 0;
  std::string unit;
  double limit = 0;
  std::string limit_is;  // what sets the limit
};

struct EngineBenchResult {
  std::string kernels;  // the table that ran
  int threads = 0;
  double dram_gbps = 0;
  double gflops = 0;  // of the weights' dtype
  std::vector<Figure> figures;
};

// Told how much is done, in [0, 1], and what runs now.
using BenchProgress = std::function<void(double, const std::string&)>;

absl::StatusOr<EngineBenchResult> RunEngineBench(const EngineBenchOptions& options,
                                                 const BenchProgress& progress);

}  // namespace chorale::bench
