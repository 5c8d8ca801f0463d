// A checkpoint written again in 8 or 4 bits.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "kernels/tensor.h"
#include "kernels/thread_pool.h"
#include "model/weights.h"

namespace chorale {

// Writes the checkpoint of `in` to the new folder `out`, with config, tokenizer and chat template,
// its matrices in `dtype` (kI8, kI4). AlreadyExists: `out` is there. FailedPrecondition: `in` is
// quantised already. After an error nothing is left of `out`.
absl::Status ConvertCheckpoint(const std::string& in, const std::string& out, kernels::DType dtype,
                               kernels::ThreadPool& pool, const LoadProgress& progress);

}  // namespace chorale
