// DoRA (arXiv 2402.09353, section 4): a linear layer whose updated rows have lengths of their own.
//
//   y = bias + gain * ((W + scale * B A) x),   gain[i] = magnitude[i] / |W[i] + scale * (B A)[i]|
//
// The gain is computed once, when the adapter is loaded, from the base as it is held here.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "model/adapter/adapter.h"
#include "model/weights.h"

namespace chorale {

// The gain of every row, [out], from its magnitude, [out]. Not finite where the updated row is
// zero. `kernels` packed all matrices. Reads 64 rows at a time: no copy of the base is made.
std::vector<float> DoraGain(const LinearRows& base, const LowRank& update,
                            std::span<const float> magnitude, const kernels::Kernels& kernels,
                            kernels::ThreadPool& pool);

// Where an output was before the products were added: at its bias, on top of what is kept.
struct Start {
  std::span<const float> bias;  // [out], or empty
  const float* kept = nullptr;  // [rows, out], rows as far apart as those of y, or null
};

// y = start + gain * (y - start), over rows of `gain.size()` outputs that lie y_stride apart.
void ApplyGain(std::span<const float> gain, const Start& start, int rows, float* y,
               int64_t y_stride);

}  // namespace chorale
