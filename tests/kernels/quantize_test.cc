// Quantised weights: how they are made, and what every table computes with them.
//
// Bounds, with u = 2^-24: the cpu tables round a row of x in groups of 32 to multiples of
// s = largest magnitude / 127, so x is off by s / 2, and a result by the sum of s / 2 |w|. A
// group's sum of codes is exact; the sum over g groups in f32 adds (g + 6) u of the sum of |x||w|.
#include "kernels/formats/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "base/random.h"
#include "gtest/gtest.h"
#include "kernels/kernels.h"
#include "tests/testing/kernel_tables.h"

namespace chorale::kernels {
namespace {

constexpr double kU = 0x1.0p-24;
constexpr uint64_t kSeed = 40805;
constexpr DType kDTypes[] = {DType::kI8, DType::kI4};

const Kernels& Reference() { return *AvailableKernels().front(); }

std::vector<float> RandomFloats(int64_t n, uint64_t stream, float scale = 1) {
  std::vector<float> values(n);
  for (int64_t i = 0; i < n; ++i) {
    values[i] = scale * static_cast<float>(2 * RandomUniform(kSeed, stream, i) - 1);
  }
  return values;
}

QuantizedMatrix Quantized(const std::vector<float>& w, int rows, int cols, DType dtype,
                          int threads = 1) {
  ThreadPool pool(threads);
  return Quantize({.data = w.data(), .dtype = DType::kF32, .rows = rows, .cols = cols}, dtype,
                  pool);
}

std::vector<float> Dequantized(const QuantizedMatrix& w) {
  std::vector<float> out(int64_t{w.rows} * w.cols);
  for (int row = 0; row < w.rows; ++row) {
    DequantizeRow(w.view(), row, out.data() + int64_t{row} * w.cols);
  }
  return out;
}

// Squared error and the promise of quantize.h for it, of one group of `n` weights.
void ExpectGroupWithin(const float* want, const float* got, int n, DType dtype) {
  double error = 0, largest = 0;
  for (int i = 0; i < n; ++i) {
    error += std::pow(double{want[i]} - got[i], 2);
    largest = std::max(largest, std::abs(double{want[i]}));
  }
  const double scale = largest / (dtype == DType::kI8 ? 127 : 7);
  // Rounding the scale to bf16 stretches it by at most 2^-8, or cuts the largest value a little.
  EXPECT_LE(error, n * std::pow(scale * (1 + 0x1.0p-8) / 2, 2) * (1 + 1e-5)) << NameOf(dtype);
}

TEST(Quantize, LosesNoMoreThanRoundingDoes) {
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  for (DType dtype : kDTypes) {
    for (auto [rows, cols] : {std::pair{1, 1}, {3, 31}, {5, 32}, {40, 33}, {7, 500}}) {
      for (float scale : {1.0f, 0x1.0p-80f, 0x1.0p110f}) {
        const std::vector<float> w = RandomFloats(rows * cols, rows + cols, scale);
        const QuantizedMatrix q = Quantized(w, rows, cols, dtype);
        ASSERT_EQ(q.codes.size(), rows * CodeBytesOfRow(dtype, cols));
        ASSERT_EQ(q.scales.size(), static_cast<size_t>(rows) * QuantGroups(cols));
        const std::vector<float> back = Dequantized(q);
        for (int row = 0; row < rows; ++row) {
          for (int c = 0; c < cols; c += kQuantGroup) {
            const int64_t at = int64_t{row} * cols + c;
            ExpectGroupWithin(&w[at], &back[at], std::min(cols - c, kQuantGroup), dtype);
          }
        }
      }
    }
  }
}

TEST(Quantize, SearchesForABetterScaleThanThePlainOne) {
  // Gaussian values, as weights are: the sum of twelve uniform ones.
  constexpr int kRows = 64, kCols = 256;
  const std::vector<float> uniform = RandomFloats(12 * kRows * kCols, 1);
  std::vector<float> w(kRows * kCols);
  for (size_t i = 0; i < w.size(); ++i) {
    w[i] = std::accumulate(&uniform[12 * i], &uniform[12 * i] + 12, 0.0f);
  }
  const std::vector<float> back = Dequantized(Quantized(w, kRows, kCols, DType::kI4));
  double found = 0, plain = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    float largest = 0;
    for (size_t j = i / 32 * 32; j < i / 32 * 32 + 32; ++j) {
      largest = std::max(largest, std::abs(w[j]));
    }
    const float scale = largest / 7;
    plain += std::pow(w[i] - scale * std::round(w[i] / scale), 2);
    found += std::pow(w[i] - back[i], 2);
  }
  RecordProperty("ratio", std::to_string(found / plain));
  EXPECT_LT(found, 0.8 * plain);
}

TEST(Quantize, GivesTheSameBytesForEveryNumberOfThreads) {
  const std::vector<float> w = RandomFloats(100 * 77, 2);
  for (DType dtype : kDTypes) {
    const QuantizedMatrix one = Quantized(w, 100, 77, dtype, 1);
    const QuantizedMatrix five = Quantized(w, 100, 77, dtype, 5);
    EXPECT_EQ(one.codes, five.codes);
    EXPECT_EQ(one.scales, five.scales);
  }
}

// The canonical form, byte for byte: converted checkpoints and digests rest on it.
TEST(Quantize, WritesTheDocumentedBytes) {
  std::vector<float> w(34);
  for (int i = 0; i < 34; ++i) w[i] = static_cast<float>(i % 16 - 8) / 4;
  const QuantizedMatrix q4 = Quantized(w, 1, 34, DType::kI4);
  ASSERT_EQ(q4.codes.size(), 32u);
  EXPECT_EQ(q4.scales, (std::vector<uint16_t>{F32ToBF16(0.25f), F32ToBF16(0.25f)}));
  for (int i = 0; i < 17; ++i) EXPECT_EQ(q4.codes[i], (2 * i) % 16 | (2 * i + 1) % 16 << 4) << i;
  for (int i = 17; i < 32; ++i) EXPECT_EQ(q4.codes[i], 0x88) << i;
  w.assign(33, -127);
  w[1] = 64;
  w[32] = 254;
  const QuantizedMatrix q8 = Quantized(w, 1, 33, DType::kI8);
  ASSERT_EQ(q8.codes.size(), 64u);
  EXPECT_EQ(q8.scales, (std::vector<uint16_t>{F32ToBF16(1), F32ToBF16(2)}));
  EXPECT_EQ(q8.codes[0], 1);
  EXPECT_EQ(q8.codes[1], 192);
  EXPECT_EQ(q8.codes[32], 255);
  EXPECT_EQ(q8.codes[33], 128);
}

TEST(Quantize, ReadsEveryDtypeOfACheckpoint) {
  constexpr uint16_t kOneF16 = 0x3c00, kMinusHalfF16 = 0xb800;
  const std::vector<uint16_t> f16 = {kOneF16, kMinusHalfF16};
  const std::vector<uint16_t> bf16 = {F32ToBF16(1), F32ToBF16(-0.5f)};
  const std::vector<float> f32 = {1, -0.5f};
  ThreadPool pool(1);
  for (DType dtype : kDTypes) {
    const QuantizedMatrix want = Quantized(f32, 2, 1, dtype);
    for (auto [data, from] : {std::pair{&f16, DType::kF16}, {&bf16, DType::kBF16}}) {
      const QuantizedMatrix got =
          Quantize({.data = data->data(), .dtype = from, .rows = 2, .cols = 1}, dtype, pool);
      EXPECT_EQ(got.codes, want.codes);
      EXPECT_EQ(got.scales, want.scales);
    }
  }
}

TEST(Quantize, KeepsZeroAndMarksWhatIsNoNumber) {
  const float nan = std::nanf(""), inf = std::numeric_limits<float>::infinity();
  for (DType dtype : kDTypes) {
    for (float bad : {nan, inf, -inf, 3e38f, 0x1.0p120f}) {
      std::vector<float> w(96, 1);
      w[40] = bad;
      std::fill(w.begin() + 64, w.end(), -1e-38f);
      const std::vector<float> back = Dequantized(Quantized(w, 1, 96, dtype));
      for (int i = 0; i < 32; ++i) {
        EXPECT_NEAR(back[i], 1, 0.005);
        EXPECT_TRUE(std::isnan(back[32 + i]));
        EXPECT_EQ(back[64 + i], 0);
      }
    }
    const QuantizedMatrix zero = Quantized(std::vector<float>(35), 1, 35, dtype);
    EXPECT_EQ(zero.scales, (std::vector<uint16_t>{0, 0}));
    for (uint8_t code : zero.codes) EXPECT_EQ(code, dtype == DType::kI8 ? 0x80 : 0x88);
  }
}

class EveryTable : public testing::TestWithParam<TableAndThreads> {
 protected:
  EveryTable() : pool_(std::get<1>(GetParam())) { RecordProperty("seed", std::to_string(kSeed)); }
  const Kernels& table() const { return *std::get<0>(GetParam()); }

  // w in two parts, as a fused projection has, from memory without alignment.
  PackedMatrix Pack(const Kernels& k, const QuantizedMatrix& w) {
    std::vector<uint8_t> codes(w.codes.size() + 1), scales(w.scales.size() * 2 + 1);
    std::copy(w.codes.begin(), w.codes.end(), codes.begin() + 1);
    std::memcpy(scales.data() + 1, w.scales.data(), w.scales.size() * 2);
    const int first = w.rows / 3;
    const QuantizedView whole = {codes.data() + 1, scales.data() + 1, w.rows, w.cols, w.dtype};
    QuantizedView top = whole, bottom = whole;
    top.rows = first;
    bottom.rows -= first;
    bottom.codes += first * CodeBytesOfRow(w.dtype, w.cols);
    bottom.scales = scales.data() + 1 + int64_t{first} * QuantGroups(w.cols) * 2;
    return k.pack_quantized(std::vector<QuantizedView>{top, bottom}, pool_);
  }

  void Judge(DType dtype, int m, int rows, int cols, bool plus);

  ThreadPool pool_;
};

INSTANTIATE_TEST_SUITE_P(Quantized, EveryTable, TablesAndThreads(), NameOfTableAndThreads);

// The bound of one result: x and w are one row each.
double BoundOf(const float* x, const float* w, int cols) {
  double rounding = 0, terms = 4;  // the bias and what y held
  for (int begin = 0; begin < cols; begin += kQuantGroup) {
    const int end = std::min(cols, begin + kQuantGroup);
    double largest = 0, weights = 0;
    for (int c = begin; c < end; ++c) {
      largest = std::max(largest, std::abs(double{x[c]}));
      weights += std::abs(double{w[c]});
    }
    rounding += largest / 127 / 2 * weights;
    terms += largest * weights;
  }
  return rounding + (QuantGroups(cols) + 6) * kU * terms;
}

void EveryTable::Judge(DType dtype, int m, int rows, int cols, bool plus) {
  const uint64_t stream = (m * 1009 + rows) * 1009 + cols;
  const int64_t x_stride = cols + 3, y_stride = rows + 5;
  const QuantizedMatrix w =
      Quantized(RandomFloats(int64_t{rows} * cols, stream), rows, cols, dtype);
  const std::vector<float> weights = Dequantized(w);
  const std::vector<float> x = RandomFloats(m * x_stride, stream + 1);
  const std::vector<float> bias = RandomFloats(rows, stream + 2);
  const std::vector<float> y0 = RandomFloats(m * y_stride, stream + 3);
  const auto run = [&](const Kernels& k) {
    const PackedMatrix packed = Pack(k, w);
    EXPECT_EQ(packed.rows, rows);
    EXPECT_EQ(packed.dtype, dtype);
    std::vector<float> y = y0;
    k.matmul({.w = packed,
              .x = x.data(),
              .m = m,
              .x_stride = x_stride,
              .y = y.data(),
              .y_stride = y_stride,
              .bias = plus ? bias.data() : nullptr,
              .accumulate = plus},
             pool_);
    return y;
  };
  const std::vector<float> want = run(Reference()), got = run(table());
  for (int i = 0; i < m; ++i) {
    for (int n = 0; n < y_stride; ++n) {
      const int64_t at = i * y_stride + n;
      const double bound =
          n < rows ? BoundOf(&x[i * x_stride], &weights[int64_t{n} * cols], cols) : 0;
      ASSERT_LE(std::abs(double{got[at]} - want[at]), bound)
          << "row " << i << " feature " << n << " is " << got[at] << ", should be " << want[at]
          << "; m " << m << " rows " << rows << " cols " << cols << " " << NameOf(dtype);
    }
  }
}

TEST_P(EveryTable, MultipliesQuantisedMatrices) {
  for (DType dtype : kDTypes) {
    for (int m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 33}) {
      for (auto [rows, cols] :
           {std::pair{1, 1}, {3, 8}, {16, 64}, {65, 33}, {96, 300}, {130, 255}}) {
        Judge(dtype, m, rows, cols, /*plus=*/(m + rows) % 2 == 0);
      }
    }
    Judge(dtype, 5, 1000, 768, false);
    Judge(dtype, 150, 100, 129, true);
    Judge(dtype, 1, 768, 2048, false);
  }
}

// The multiplication itself, without the rounding of x: whole numbers that x's codes hold exactly.
TEST_P(EveryTable, IsExactForWholeNumbers) {
  constexpr int kRows = 37, kCols = 70, kM = 11;
  std::vector<float> x(kM * kCols);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = std::floor(255 * static_cast<float>(RandomUniform(kSeed, 7, i))) - 127;
    if (i % kCols % kQuantGroup == 0) x[i] = i % 2 == 0 ? 127 : -127;
  }
  for (DType dtype : kDTypes) {
    // Every byte that a file may hold, -128 among them.
    QuantizedMatrix w = Quantized(std::vector<float>(kRows * kCols), kRows, kCols, dtype);
    std::iota(w.codes.begin(), w.codes.end(), 0);
    std::fill(w.scales.begin(), w.scales.end(), F32ToBF16(-0.5f));
    const auto run = [&](const Kernels& k) {
      std::vector<float> y(kM * kRows);
      const PackedMatrix packed = Pack(k, w);
      k.matmul({.w = packed,
                .x = x.data(),
                .m = kM,
                .x_stride = kCols,
                .y = y.data(),
                .y_stride = kRows},
               pool_);
      return y;
    };
    EXPECT_EQ(run(table()), run(Reference())) << NameOf(dtype);
  }
}

TEST_P(EveryTable, RowsDoNotDependOnTheirBatch) {
  constexpr int kRows = 130, kCols = 771, kM = 133;
  const std::vector<float> x = RandomFloats(kM * kCols, 9);
  for (DType dtype : kDTypes) {
    const PackedMatrix packed =
        Pack(table(), Quantized(RandomFloats(kRows * kCols, 8), kRows, kCols, dtype));
    ThreadPool other(2);
    const auto run = [&](int begin, int m, ThreadPool& pool) {
      std::vector<float> y(m * kRows);
      table().matmul({.w = packed,
                      .x = x.data() + begin * kCols,
                      .m = m,
                      .x_stride = kCols,
                      .y = y.data(),
                      .y_stride = kRows},
                     pool);
      return y;
    };
    const std::vector<float> together = run(0, kM, pool_);
    for (int m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 100}) {
      const std::vector<float> some = run(3, m, other);
      EXPECT_EQ(0, std::memcmp(some.data(), together.data() + 3 * kRows, some.size() * 4)) << m;
    }
  }
}

TEST_P(EveryTable, EmbedsQuantisedRowsExactly) {
  constexpr int kRows = 77, kCols = 83;
  std::vector<int32_t> ids(2 * kRows);
  for (int i = 0; i < 2 * kRows; ++i) ids[i] = (i * 31) % kRows;
  for (DType dtype : kDTypes) {
    const QuantizedMatrix w = Quantized(RandomFloats(kRows * kCols, 10), kRows, kCols, dtype);
    const std::vector<float> want = Dequantized(w);
    std::vector<float> got(ids.size() * kCols);
    table().embed(Pack(table(), w), ids, got.data(), pool_);
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i], want[ids[i / kCols] * kCols + i % kCols]) << i;
    }
  }
}

// A number that is none, in weights or in a row of x, shows in the results and only where it must.
TEST_P(EveryTable, PassesOnWhatIsNoNumber) {
  constexpr int kRows = 20, kCols = 100, kM = 10;
  for (DType dtype : kDTypes) {
    std::vector<float> w = RandomFloats(kRows * kCols, 11), x = RandomFloats(kM * kCols, 12);
    w[3 * kCols + 99] = std::nanf("");
    x[5 * kCols + 40] = std::nanf("");
    x[9 * kCols] = std::numeric_limits<float>::infinity();
    std::fill(x.begin(), x.begin() + kCols, 1e-38f);
    std::vector<float> y(kM * kRows);
    table().matmul({.w = Pack(table(), Quantized(w, kRows, kCols, dtype)),
                    .x = x.data(),
                    .m = kM,
                    .x_stride = kCols,
                    .y = y.data(),
                    .y_stride = kRows},
                   pool_);
    for (int i = 0; i < kM; ++i) {
      for (int n = 0; n < kRows; ++n) {
        const bool marked = i == 5 || i == 9 || n == 3;
        EXPECT_EQ(std::isfinite(y[i * kRows + n]), !marked) << i << " " << n;
        if (i == 0 && n != 3) {
          EXPECT_NEAR(y[n], 0, 1e-28);
        }
      }
    }
  }
}

}  // namespace
}  // namespace chorale::kernels
