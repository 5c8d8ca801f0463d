// Every table that this machine can run, judged by the reference over many shapes.
//
// Bounds follow from the arithmetic, with u = 2^-24 for f32 and v = 2^-9 for rounding to bf16:
//   sum of n products in f32                  (n + 2) u sum |x||w|
//   the same with bf16 weights                + v sum |x||w|, for x is rounded too
//   element-wise ops                          a few u of the largest term
//   attention                                 see BoundOfAttention
#include "kernels/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "base/random.h"
#include "gtest/gtest.h"
#include "tests/testing/kernel_tables.h"

namespace chorale::kernels {
namespace {

constexpr double kU = 0x1.0p-24;
constexpr double kV = 0x1.0p-9;
constexpr double kTiny = 1e-30;
constexpr uint64_t kSeed = 20261121;

const Kernels& Reference() { return *AvailableKernels().front(); }

// A stream of random values; each test names its own.
class Random {
 public:
  explicit Random(uint64_t stream) : stream_(stream) {}
  float Uniform() {  // in [-1, 1)
    return static_cast<float>(2 * RandomUniform(kSeed, stream_, counter_++) - 1);
  }
  int Below(int n) { return static_cast<int>(RandomUniform(kSeed, stream_, counter_++) * n); }
  std::vector<float> Floats(int64_t n, float scale = 1) {
    std::vector<float> values(n);
    for (float& value : values) value = Uniform() * scale;
    return values;
  }

 private:
  uint64_t stream_;
  uint64_t counter_ = 0;
};

class EveryTable : public testing::TestWithParam<TableAndThreads> {
 protected:
  EveryTable() : pool_(std::get<1>(GetParam())) { RecordProperty("seed", std::to_string(kSeed)); }
  const Kernels& table() const { return *std::get<0>(GetParam()); }
  ThreadPool pool_;
};

INSTANTIATE_TEST_SUITE_P(Kernels, EveryTable, TablesAndThreads(), NameOfTableAndThreads);

std::vector<float> Absolute(std::vector<float> values) {
  for (float& value : values) value = std::abs(value);
  return values;
}

MatrixView View(const std::vector<float>& values, int rows, int cols) {
  return {.data = values.data(), .dtype = DType::kF32, .rows = rows, .cols = cols};
}

// Fails with the first place where `got` is further than `bound` from `want`.
void ExpectWithin(const std::vector<float>& got, const std::vector<float>& want,
                  const std::vector<double>& bound, const std::string& what) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_LE(std::abs(double{got[i]} - want[i]), bound[i])
        << what << ": element " << i << " is " << got[i] << ", should be " << want[i];
  }
}

void JudgeMatmul(const Kernels& table, ThreadPool& pool, DType dtype, int m, int rows, int cols,
                 bool plus) {
  Random random(m * 1000003 + rows * 1009 + cols);
  const int64_t x_stride = cols + 3, y_stride = rows + 5;
  const std::vector<float> w = random.Floats(int64_t{rows} * cols);
  const std::vector<float> x = random.Floats(m * x_stride);
  const std::vector<float> bias = random.Floats(rows);
  const std::vector<float> y0 = random.Floats(m * y_stride);
  const auto run = [&](const Kernels& k, const std::vector<float>& weights,
                       const std::vector<float>& input) {
    // Two parts, as a fused projection has.
    const int first = rows / 3;
    const std::vector<MatrixView> parts = {
        {weights.data(), DType::kF32, first, cols},
        {weights.data() + int64_t{first} * cols, DType::kF32, rows - first, cols}};
    const PackedMatrix packed = k.pack(parts, dtype, pool);
    EXPECT_EQ(packed.rows, rows);
    std::vector<float> y = y0;
    k.matmul({.w = packed,
              .x = input.data(),
              .m = m,
              .x_stride = x_stride,
              .y = y.data(),
              .y_stride = y_stride,
              .bias = plus ? bias.data() : nullptr,
              .accumulate = plus},
             pool);
    return y;
  };
  const std::vector<float> want = run(Reference(), w, x);
  const std::vector<float> sums = run(Reference(), Absolute(w), Absolute(x));
  std::vector<double> bound(want.size());
  for (size_t i = 0; i < bound.size(); ++i) {
    const double terms = std::abs(sums[i]) + 4;  // 4: the bias and what y held
    bound[i] = ((cols + 4) * kU + (dtype == DType::kBF16 ? kV : 0)) * terms + kTiny;
    if (static_cast<int64_t>(i) % y_stride >= rows) bound[i] = 0;  // between the rows: untouched
  }
  ExpectWithin(run(table, w, x), want, bound,
               "m " + std::to_string(m) + " rows " + std::to_string(rows) + " cols " +
                   std::to_string(cols) + " " + NameOf(dtype));
}

TEST_P(EveryTable, MultipliesMatrices) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (int m : {1, 2, 3, 7, 8, 17, 64, 129}) {
      for (auto [rows, cols] :
           {std::pair{1, 1}, {3, 8}, {16, 64}, {65, 33}, {96, 300}, {130, 257}}) {
        JudgeMatmul(table(), pool_, dtype, m, rows, cols, /*plus=*/(m + rows) % 2 == 0);
      }
    }
    JudgeMatmul(table(), pool_, dtype, 5, 1000, 768, false);
    JudgeMatmul(table(), pool_, dtype, 300, 200, 129, true);
    JudgeMatmul(table(), pool_, dtype, 1, 768, 2048, false);
  }
}

// What the shared cache rests on: the number of rows beside a row does not change its result.
TEST_P(EveryTable, RowsDoNotDependOnTheirBatch) {
  constexpr int kRows = 130, kCols = 771, kM = 133;
  Random random(1);
  const std::vector<float> w = random.Floats(kRows * kCols);
  const std::vector<float> x = random.Floats(kM * kCols);
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const std::vector<MatrixView> parts = {View(w, kRows, kCols)};
    const PackedMatrix packed = table().pack(parts, dtype, pool_);
    const auto run = [&](int begin, int m) {
      std::vector<float> y(m * kRows);
      table().matmul({.w = packed,
                      .x = x.data() + begin * kCols,
                      .m = m,
                      .x_stride = kCols,
                      .y = y.data(),
                      .y_stride = kRows},
                     pool_);
      return y;
    };
    const std::vector<float> together = run(0, kM);
    for (int m : {1, 2, 5, 8, 9, 100}) {
      const std::vector<float> some = run(3, m);
      EXPECT_EQ(0, std::memcmp(some.data(), together.data() + 3 * kRows, some.size() * 4)) << m;
    }
  }
}

TEST_P(EveryTable, PacksEveryDtypeAndEmbedsItBack) {
  constexpr int kRows = 77, kCols = 19;
  Random random(2);
  std::vector<uint16_t> f16(kRows * kCols), bf16(kRows * kCols);
  for (uint16_t& bits : f16) bits = static_cast<uint16_t>(random.Below(0x7c00));
  for (uint16_t& bits : bf16) bits = F32ToBF16(random.Uniform());
  const std::vector<float> f32 = random.Floats(kRows * kCols);
  const std::vector<MatrixView> parts = {View(f32, kRows, kCols),
                                         {f16.data(), DType::kF16, kRows, kCols},
                                         {bf16.data(), DType::kBF16, kRows, kCols}};
  std::vector<int32_t> ids(3 * kRows);
  std::iota(ids.rbegin(), ids.rend(), 0);
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const PackedMatrix packed = table().pack(parts, dtype, pool_);
    std::vector<float> out(ids.size() * kCols);
    table().embed(packed, ids, out.data(), pool_);
    for (size_t i = 0; i < out.size(); ++i) {
      const int row = ids[i / kCols];
      const int at = row % kRows * kCols + static_cast<int>(i % kCols);
      float want = row < kRows       ? f32[at]
                   : row < 2 * kRows ? F16ToF32(f16[at])
                                     : BF16ToF32(bf16[at]);
      if (dtype == DType::kBF16) want = BF16ToF32(F32ToBF16(want));
      ASSERT_EQ(out[i], want) << "row " << row;
    }
  }
}

TEST_P(EveryTable, NormalisesRows) {
  for (auto [rows, groups, dim] : {std::tuple{1, 1, 1}, {3, 1, 767}, {200, 1, 768}, {5, 3, 10}}) {
    Random random(rows * 31 + dim);
    const int64_t stride = groups * dim + 2;
    const std::vector<float> x = random.Floats(rows * stride, 3);
    const std::vector<float> weight = random.Floats(dim);
    const auto run = [&, rows = rows, groups = groups, dim = dim](const Kernels& k) {
      std::vector<float> out = x;
      k.rms_norm({.x = out.data(),
                  .rows = rows,
                  .groups = groups,
                  .dim = dim,
                  .x_stride = stride,
                  .weight = weight.data(),
                  .eps = 1e-5f,
                  .out = out.data(),
                  .out_stride = stride},
                 pool_);
      return out;
    };
    const std::vector<float> want = run(Reference());
    std::vector<double> bound;
    for (float value : want) bound.push_back((dim / 4.0 + 8) * kU * std::abs(value) + kTiny);
    ExpectWithin(run(table()), want, bound, "dim " + std::to_string(dim));
  }
}

TEST_P(EveryTable, RotatesHeads) {
  for (auto [rows, heads, dim] : {std::tuple{1, 1, 2}, {3, 5, 8}, {70, 3, 80}, {9, 12, 64}}) {
    Random random(rows * 37 + dim);
    const int64_t stride = heads * dim + 6;
    const std::vector<float> x = random.Floats(rows * stride);
    std::vector<float> cos(rows * dim / 2), sin(rows * dim / 2);
    for (size_t i = 0; i < cos.size(); ++i) {
      cos[i] = static_cast<float>(std::cos(i * 0.37));
      sin[i] = static_cast<float>(std::sin(i * 0.37));
    }
    const auto run = [&, rows = rows, heads = heads, dim = dim](const Kernels& k) {
      std::vector<float> out = x;
      k.rope({.x = out.data(),
              .rows = rows,
              .heads = heads,
              .head_dim = dim,
              .x_stride = stride,
              .cos = cos.data(),
              .sin = sin.data()},
             pool_);
      return out;
    };
    ExpectWithin(run(table()), run(Reference()), std::vector<double>(x.size(), 4 * kU), "rope");
  }
}

TEST_P(EveryTable, GatesWithSwiGlu) {
  for (auto [rows, dim] : {std::pair{1, 1}, {2, 33}, {65, 2048}}) {
    Random random(rows * 41 + dim);
    const std::vector<float> x = random.Floats(rows * (2 * dim + 1), 30);
    const auto run = [&, rows = rows, dim = dim](const Kernels& k) {
      std::vector<float> out(rows * dim);
      k.swiglu({.gate_up = x.data(),
                .gate_up_stride = 2 * dim + 1,
                .rows = rows,
                .dim = dim,
                .out = out.data(),
                .out_stride = dim},
               pool_);
      return out;
    };
    const std::vector<float> want = run(Reference());
    std::vector<double> bound;
    for (float value : want) bound.push_back(8 * kU * std::abs(value) + kTiny);
    ExpectWithin(run(table()), want, bound, "swiglu");
  }
}

TEST_P(EveryTable, SilencesTheGateAtTheEndsOfTheRange) {
  const std::vector<float> gate_up = {-200, 200, -90, 90, 0, 1, 1, 1, 1, 1};
  std::vector<float> out(5);
  table().swiglu({.gate_up = gate_up.data(),
                  .gate_up_stride = 10,
                  .rows = 1,
                  .dim = 5,
                  .out = out.data(),
                  .out_stride = 5},
                 pool_);
  EXPECT_NEAR(out[0], 0, 1e-30);
  EXPECT_FLOAT_EQ(out[1], 200);
  EXPECT_NEAR(out[2], 0, 1e-30);
  EXPECT_FLOAT_EQ(out[3], 90);
  EXPECT_EQ(out[4], 0);
}

TEST_P(EveryTable, AppliesAdaptersOfMixedRanks) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    constexpr int kIn = 70, kOut = 131, kBatch = 60;
    Random random(3);
    const std::vector<float> x = random.Floats(kBatch * kIn), y0 = random.Floats(kBatch * kOut);
    struct Case {
      int rank, begin, rows;
    };
    const Case cases[] = {{1, 0, 1}, {3, 2, 5}, {8, 7, 1}, {64, 8, 40}, {8, 50, 3}};
    const auto run = [&](const Kernels& k, bool absolute) {
      Random weights(4);
      std::vector<PackedMatrix> packed;
      std::vector<AdapterRows> groups;
      packed.reserve(2 * std::size(cases));
      for (const Case& c : cases) {
        std::vector<float> a = weights.Floats(c.rank * kIn), b = weights.Floats(kOut * c.rank);
        if (absolute) a = Absolute(a), b = Absolute(b);
        const std::vector<MatrixView> a_parts = {View(a, c.rank, kIn)};
        const std::vector<MatrixView> b_parts = {View(b, kOut, c.rank)};
        packed.push_back(k.pack(a_parts, dtype, pool_));
        packed.push_back(k.pack(b_parts, dtype, pool_));
        groups.push_back({.row_begin = c.begin,
                          .rows = c.rows,
                          .a = &packed[packed.size() - 2],
                          .b = &packed[packed.size() - 1],
                          .scale = 0.5f});
      }
      const std::vector<float> input = absolute ? Absolute(x) : x;
      std::vector<float> y = absolute ? Absolute(y0) : y0;
      k.adapters(
          {.groups = groups, .x = input.data(), .x_stride = kIn, .y = y.data(), .y_stride = kOut},
          pool_);
      return y;
    };
    const std::vector<float> sums = run(Reference(), true);
    std::vector<double> bound;
    for (float sum : sums) {
      bound.push_back((kIn + 64 + 8) * kU * sum + (dtype == DType::kBF16 ? 2.01 * kV * sum : 0));
    }
    ExpectWithin(run(table(), false), run(Reference(), false), bound, NameOf(dtype));
  }
}

TEST_P(EveryTable, AddsVectors) {
  for (int n : {1, 15, 1000, 300001}) {
    Random random(n);
    std::vector<float> x = random.Floats(n);
    const std::vector<float> y = random.Floats(n), before = x;
    table().add(x.data(), y.data(), n, pool_);
    for (int i = 0; i < n; ++i) ASSERT_EQ(x[i], before[i] + y[i]);
  }
}

TEST_P(EveryTable, FindsTheFirstOfTheLargest) {
  const float nan = std::nanf(""), inf = std::numeric_limits<float>::infinity();
  const std::pair<std::vector<float>, int> cases[] = {
      {{1}, 0},          {{1, 3, 2, 3}, 1}, {{nan, 1, nan, 2}, 3},   {{nan, nan}, 0},
      {{-inf, -inf}, 0}, {{nan, -inf}, 1},  {{1, inf, nan, inf}, 1}, {{-0.0f, 0.0f}, 0}};
  for (const auto& [values, want] : cases) {
    EXPECT_EQ(table().argmax(values.data(), static_cast<int>(values.size())), want);
  }
  Random random(5);
  for (int n : {16, 17, 100, 32000}) {
    std::vector<float> x = random.Floats(n);
    x[n * 2 / 3] = x[n - 1] = 2;
    x[n / 2] = nan;
    EXPECT_EQ(table().argmax(x.data(), n), n * 2 / 3);
  }
}

TEST_P(EveryTable, ExponentiatesForSampling) {
  Random random(6);
  for (int n : {1, 17, 32000}) {
    const std::vector<float> x = random.Floats(n, 60);
    for (float scale : {1.0f, 0.7f, 10.0f}) {
      std::vector<float> got = x, want = x;
      const double sum = table().exp_scaled(got.data(), n, scale);
      const double want_sum = Reference().exp_scaled(want.data(), n, scale);
      std::vector<double> bound;
      for (int i = 0; i < n; ++i) {
        // The argument, up to 120 * scale, is rounded twice before the exponential.
        bound.push_back((240 * scale + 8) * kU * want[i] + 0x1.0p-125);
      }
      ExpectWithin(got, want, bound, "exp");
      EXPECT_NEAR(sum, want_sum, (240 * scale + 8) * kU * want_sum);
      EXPECT_EQ(*std::max_element(got.begin(), got.end()), 1.0f);
    }
  }
}

TEST(FindKernels, KnowsNamesAndSaysWhichOnesWouldDo) {
  EXPECT_EQ((*FindKernels("reference"))->name, "reference");
  EXPECT_EQ(*FindKernels("cpu"), AvailableKernels().back());
  EXPECT_EQ((*FindKernels("cpu-portable"))->name, "cpu-portable");
  const absl::Status status = FindKernels("gpu").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(status.message().find("cpu-portable"), absl::string_view::npos);
}

}  // namespace
}  // namespace chorale::kernels
