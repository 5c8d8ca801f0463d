#include "model/adapter/dora.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace chorale {
namespace {

constexpr int kRowsAtOnce = 64;

// Rows [begin, begin + rows) of a packed matrix, widened.
std::vector<float> WidenedRows(const kernels::PackedMatrix& matrix, int begin, int rows,
                               const kernels::Kernels& kernels, kernels::ThreadPool& pool) {
  std::vector<int32_t> ids(rows);
  std::iota(ids.begin(), ids.end(), begin);
  std::vector<float> values(static_cast<size_t>(rows) * matrix.cols);
  kernels.embed(matrix, ids, values.data(), pool);
  return values;
}

}  // namespace

std::vector<float> DoraGain(const LinearRows& base, const LowRank& update,
                            std::span<const float> magnitude, const kernels::Kernels& kernels,
                            kernels::ThreadPool& pool) {
  const int out = update.b.rows;
  const int in = update.a.cols;
  const int rank = update.a.rows;
  CHECK_EQ(static_cast<int>(magnitude.size()), out);
  CHECK_EQ(base.matrix.cols, in);
  CHECK_LE(base.begin + out, base.matrix.rows);
  const std::vector<float> a = WidenedRows(update.a, 0, rank, kernels, pool);
  std::vector<float> gain(out);
  for (int begin = 0; begin < out; begin += kRowsAtOnce) {
    const int rows = std::min(kRowsAtOnce, out - begin);
    std::vector<float> w = WidenedRows(base.matrix, base.begin + begin, rows, kernels, pool);
    const std::vector<float> b = WidenedRows(update.b, begin, rows, kernels, pool);
    pool.ParallelFor(rows, [&](int row) {
      float* updated = w.data() + int64_t{row} * in;
      for (int r = 0; r < rank; ++r) {
        const float factor = update.scale * b[int64_t{row} * rank + r];
        const float* direction = a.data() + int64_t{r} * in;
        for (int i = 0; i < in; ++i) updated[i] += factor * direction[i];
      }
      double squares = 0;
      for (int i = 0; i < in; ++i) squares += double{updated[i]} * updated[i];
      gain[begin + row] = static_cast<float>(magnitude[begin + row] / std::sqrt(squares));
    });
  }
  return gain;
}

void ApplyGain(std::span<const float> gain, const Start& start, int rows, float* y,
               int64_t y_stride) {
  for (int row = 0; row < rows; ++row) {
    float* out = y + row * y_stride;
    const float* kept = start.kept == nullptr ? nullptr : start.kept + row * y_stride;
    for (size_t i = 0; i < gain.size(); ++i) {
      const float from = (start.bias.empty() ? 0 : start.bias[i]) + (kept ? kept[i] : 0);
      out[i] = from + gain[i] * (out[i] - from);
    }
  }
}

}  // namespace chorale
