// Attention and the key/value blocks of every table, judged by the reference.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "base/random.h"
#include "gtest/gtest.h"
#include "kernels/kernels.h"
#include "tests/testing/kernel_tables.h"

namespace chorale::kernels {
namespace {

constexpr uint64_t kSeed = 7011;
constexpr int kLayers = 2;

// A batch of sequences over shuffled blocks, with everything that attention reads.
struct Batch {
  struct Sequence {
    int context = 0;
    int rows = 0;
  };

  Batch(KvShape kv_shape, int groups, std::vector<Sequence> sequences, int window = 0)
      : shape(kv_shape),
        heads(groups * kv_shape.kv_heads),
        window(window),
        sizes(std::move(sequences)) {
    int blocks = 0;
    for (const Sequence& s : sizes) {
      rows += s.rows;
      blocks += (s.context + s.rows + kBlockTokens - 1) / kBlockTokens;
    }
    block_count = blocks + 3;
    std::vector<BlockId> order(block_count);
    for (int i = 0; i < block_count; ++i) order[i] = i;
    for (int i = block_count - 1; i > 0; --i) std::swap(order[i], order[Below(i + 1)]);
    tables.resize(sizes.size());
    int next = 0;
    for (size_t s = 0; s < sizes.size(); ++s) {
      const int count = (sizes[s].context + sizes[s].rows + kBlockTokens - 1) / kBlockTokens;
      tables[s].assign(order.begin() + next, order.begin() + next + count);
      next += count;
    }
    q.resize(int64_t{rows} * heads * shape.head_dim);
    for (float& value : q) value = Uniform();
  }

  double Next() { return RandomUniform(kSeed, block_count, counter++); }
  int Below(int n) { return static_cast<int>(Next() * n); }
  float Uniform() { return static_cast<float>(2 * Next() - 1); }

  // The tables that attention is given: blocks that lie before the window of all rows are not
  // there.
  std::vector<std::vector<BlockId>> VisibleTables() const {
    std::vector<std::vector<BlockId>> visible = tables;
    for (size_t s = 0; window > 0 && s < visible.size(); ++s) {
      const int hidden = std::max(0, sizes[s].context + 1 - window) / kBlockTokens;
      std::fill_n(visible[s].begin(), hidden, BlockId{-1'000'000'000});
    }
    return visible;
  }

  std::vector<SequenceRows> Rows(const std::vector<std::vector<BlockId>>& of) const {
    std::vector<SequenceRows> result;
    int row = 0;
    for (size_t s = 0; s < sizes.size(); ++s) {
      result.push_back({.row_begin = row,
                        .rows = sizes[s].rows,
                        .context = sizes[s].context,
                        .blocks = of[s].data()});
      row += sizes[s].rows;
    }
    return result;
  }

  KvShape shape;
  int heads;
  int window;
  std::vector<Sequence> sizes;
  int rows = 0;
  int block_count = 0;
  std::vector<std::vector<BlockId>> tables;
  std::vector<float> q;
  uint64_t counter = 0;
};

// Blocks filled with NaN and then, through `table`, with random keys and values of all tokens.
std::vector<std::byte> FilledBlocks(const Kernels& table, const Batch& batch, bool absolute_values,
                                    ThreadPool& pool) {
  const KvShape& shape = batch.shape;
  std::vector<std::byte> memory(batch.block_count * shape.block_bytes(), std::byte{0xff});
  const int width = shape.kv_heads * shape.head_dim;
  uint64_t counter = 0;
  for (size_t s = 0; s < batch.sizes.size(); ++s) {
    const int tokens = batch.sizes[s].context + batch.sizes[s].rows;
    std::vector<float> k(tokens * width), v(tokens * width);
    for (float& x : k) x = static_cast<float>(4 * RandomUniform(kSeed, 1, counter++) - 2);
    for (float& x : v) {
      x = static_cast<float>(2 * RandomUniform(kSeed, 2, counter++) - 1);
      if (absolute_values) x = std::abs(x);
    }
    for (int layer = 0; layer < kLayers; ++layer) {
      // In two calls, so that the second begins inside a block.
      const int first = tokens / 2;
      const std::vector<SequenceRows> halves = {
          {.row_begin = 0, .rows = first, .context = 0, .blocks = batch.tables[s].data()},
          {.row_begin = first,
           .rows = tokens - first,
           .context = first,
           .blocks = batch.tables[s].data()}};
      table.store_kv({.k = k.data(),
                      .v = v.data(),
                      .k_stride = width,
                      .v_stride = width,
                      .sequences = halves,
                      .layer = layer,
                      .kv = {.data = memory.data(), .shape = shape}},
                     pool);
    }
  }
  return memory;
}

std::vector<float> RunAttention(const Kernels& table, const Batch& batch,
                                std::vector<std::byte>& memory, int layer, ThreadPool& pool) {
  const int64_t stride = int64_t{batch.heads} * batch.shape.head_dim;
  std::vector<float> out(batch.rows * stride);
  const std::vector<std::vector<BlockId>> tables = batch.VisibleTables();
  const std::vector<SequenceRows> sequences = batch.Rows(tables);
  table.attention({.q = batch.q.data(),
                   .q_stride = stride,
                   .out = out.data(),
                   .out_stride = stride,
                   .heads = batch.heads,
                   .scale = 1 / std::sqrt(static_cast<float>(batch.shape.head_dim)),
                   .window = batch.window,
                   .sequences = sequences,
                   .layer = layer,
                   .kv = {.data = memory.data(), .shape = batch.shape}},
                  pool);
  return out;
}

// With |q| <= 1 and |k| <= 2 a score is off by at most d = scale * 2 head_dim * (r + head_dim u), r
// the rounding of q: v = 2^-9 for bf16 blocks, 0 for f32. A weight is then off by a factor of at
// most e^(2d) either way, a result by (e^(2d) - 1 + (tokens + 16) u) * sum of weight |value|.
double BoundOfAttention(const Batch& batch) {
  const double u = 0x1.0p-24, dim = batch.shape.head_dim;
  const double r = batch.shape.dtype == DType::kBF16 ? 0x1.0p-9 : 0;
  // Rounding errors of random signs: half the worst case is far beyond what occurs.
  const double d = 0.5 / std::sqrt(dim) * 2 * dim * (r + (dim + 4) * u);
  int tokens = 0;
  for (const Batch::Sequence& s : batch.sizes) tokens = std::max(tokens, s.context + s.rows);
  return std::expm1(2 * d) + (tokens + 16) * u;
}

class EveryTable : public testing::TestWithParam<TableAndThreads> {
 protected:
  EveryTable() : pool_(std::get<1>(GetParam())) { RecordProperty("seed", std::to_string(kSeed)); }
  const Kernels& table() const { return *std::get<0>(GetParam()); }
  const Kernels& reference() const { return *AvailableKernels().front(); }

  void Judge(const Batch& batch) {
    std::vector<std::byte> memory = FilledBlocks(reference(), batch, false, pool_);
    EXPECT_EQ(memory, FilledBlocks(table(), batch, false, pool_)) << "stored blocks differ";
    std::vector<std::byte> absolute = FilledBlocks(reference(), batch, true, pool_);
    for (int layer = 0; layer < kLayers; ++layer) {
      const std::vector<float> want = RunAttention(reference(), batch, memory, layer, pool_);
      const std::vector<float> sums = RunAttention(reference(), batch, absolute, layer, pool_);
      const std::vector<float> got = RunAttention(table(), batch, memory, layer, pool_);
      const double bound = BoundOfAttention(batch);
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_LE(std::abs(double{got[i]} - want[i]), bound * sums[i] + 1e-30)
            << "element " << i << " is " << got[i] << ", should be " << want[i] << "; head_dim "
            << batch.shape.head_dim << " heads " << batch.heads << " " << NameOf(batch.shape.dtype);
      }
    }
  }

  ThreadPool pool_;
};

INSTANTIATE_TEST_SUITE_P(Attention, EveryTable, TablesAndThreads(), NameOfTableAndThreads);

KvShape Shape(int kv_heads, int head_dim, DType dtype) {
  return {.layers = kLayers, .kv_heads = kv_heads, .head_dim = head_dim, .dtype = dtype};
}

TEST_P(EveryTable, AttendsOverHeadSizesAndGroups) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (int head_dim : {2, 8, 32, 64, 80, 128}) {
      for (int group : {1, 2, 3, 7}) {
        Judge(Batch(Shape(2, head_dim, dtype), group, {{0, 19}, {37, 1}, {15, 2}, {16, 1}}));
      }
    }
  }
}

TEST_P(EveryTable, AttendsOverContextsAndChunks) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (int context : {0, 1, 15, 16, 17, 100, 511, 512, 513, 1000}) {
      Judge(Batch(Shape(1, 32, dtype), 3, {{context, 1}, {context, 7}}));
    }
    Judge(Batch(Shape(2, 64, dtype), 3, {{0, 70}, {500, 40}}));
    Judge(Batch(Shape(1, 16, dtype), 40, {{30, 2}}));
  }
}

TEST_P(EveryTable, AttendsToLongContextsOfOneSequence) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    Judge(Batch(Shape(1, 64, dtype), 4, {{2100, 1}}));
  }
}

TEST_P(EveryTable, AttendsWithinWindows) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (int window : {1, 2, 15, 16, 17, 100, 511, 512, 513, 600}) {
      Judge(Batch(Shape(2, 32, dtype), 3, {{0, 40}, {37, 1}, {530, 70}, {1030, 1}}, window));
    }
    Judge(Batch(Shape(1, 64, dtype), 4, {{2100, 1}}, 1040));
  }
}

TEST_P(EveryTable, WindowsThatHideNothingChangeNothing) {
  const Batch open(Shape(2, 64, DType::kBF16), 3, {{0, 9}, {590, 20}});
  Batch windowed = open;
  windowed.window = 610;
  std::vector<std::byte> memory = FilledBlocks(table(), open, false, pool_);
  EXPECT_EQ(RunAttention(table(), open, memory, 0, pool_),
            RunAttention(table(), windowed, memory, 0, pool_));
}

// A query's result depends neither on the chunk it came in nor on its neighbours nor on the pool.
void ExpectIndependentQueries(const Kernels& table, int window, ThreadPool& pool) {
  const Batch whole(Shape(2, 64, DType::kBF16), 3, {{0, 9}, {1000, 50}}, window);
  std::vector<std::byte> memory = FilledBlocks(table, whole, false, pool);
  const std::vector<float> together = RunAttention(table, whole, memory, 0, pool);
  const int64_t width = int64_t{whole.heads} * whole.shape.head_dim;
  ThreadPool other(8);
  for (int row : {0, 7, 23, 24, 49}) {
    Batch alone = whole;
    alone.sizes = {{1000 + row, 1}};
    alone.tables = {whole.tables[1]};
    alone.rows = 1;
    alone.q.assign(whole.q.begin() + (9 + row) * width, whole.q.begin() + (10 + row) * width);
    const std::vector<float> got = RunAttention(table, alone, memory, 0, other);
    EXPECT_EQ(0, std::memcmp(got.data(), together.data() + (9 + row) * width, width * 4))
        << "row " << row << " window " << window;
  }
}

TEST_P(EveryTable, QueriesDoNotDependOnTheirBatch) {
  for (int window : {0, 5, 16, 475, 490, 520}) ExpectIndependentQueries(table(), window, pool_);
}

}  // namespace
}  // namespace chorale::kernels
