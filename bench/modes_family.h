// The models that the benches of the modes run: random weights of the 125 M shape.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/model_loader.h"

namespace chorale::bench {

using Models = std::vector<std::shared_ptr<const Model>>;

// Writes a checkpoint in bf16 into `folder`, which it makes.
absl::Status WriteBase(const std::string& folder);

// What bench_modes compares, on the base of `loader`, with adapters of rank 16 that it writes into
// `folder`: a0, a1, ... of mode standard and i0, i1, ... of icarus, kAdapters of each, and sun16,
// sun8 and sun4 on the base in its own 16, in 8 and in 4 bits.
inline constexpr int kAdapters = 8;
absl::StatusOr<Models> LoadModes(const std::string& folder, const ModelLoader& loader,
                                 kernels::ThreadPool& pool);

// What bench/sun.py serves: a base, `models` adapters and a chorale.yaml. Models m0, m1, ... are of
// mode sun, q0, q1, ... the same with the decoder in int4.
absl::Status WriteFamily(const std::string& folder, int models);

// Prints the counters of the worker at a gRPC address as one JSON object.
absl::Status PrintWorkerCounters(const std::string& address);

}  // namespace chorale::bench
