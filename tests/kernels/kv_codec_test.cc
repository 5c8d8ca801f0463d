// Keys and values in 8 bits: what rounding does to a row, and that packing loses nothing.
#include "kernels/formats/kv_codec.h"

#include <algorithm>
#include <bit>
#include <cfenv>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/kernels.h"
#include "tests/testing/kernel_tables.h"

namespace chorale::kernels {
namespace {

using testing::HasSubstr;

constexpr uint64_t kSeed = 4108;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr uint32_t kNaNBits = 0x7fc00000;

std::vector<uint32_t> BitsOf(const std::vector<float>& x) {
  std::vector<uint32_t> bits;
  for (float value : x) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

std::vector<float> Rounded(std::vector<float> x) {
  ThreadPool pool(1);
  const int count = static_cast<int>(x.size());
  RoundKvRows({.x = x.data(), .rows = 1, .heads = 1, .head_dim = count, .x_stride = count}, pool);
  return x;
}

// The definition, in double.
std::vector<float> RoundedByDefinition(const std::vector<float>& x) {
  double largest = 0;
  for (float value : x) {
    if (!std::isfinite(value)) return std::vector<float>(x.size(), std::bit_cast<float>(kNaNBits));
    largest = std::max(largest, std::abs(double{value}));
  }
  int e = kKvExponentMin;
  while (e < kKvExponentMax && largest > std::ldexp(127.0, e)) ++e;
  std::vector<float> out;
  for (float value : x) {
    const double code = std::nearbyint(std::ldexp(double{value}, -e));
    out.push_back(static_cast<float>(std::ldexp(std::clamp(code, -127.0, 127.0), e)) + 0.0f);
  }
  return out;
}

// A vector of some magnitude; now and then with zeros, or with values far below the largest.
std::vector<float> RandomRow(int count, uint64_t stream) {
  std::vector<float> x(count);
  const int magnitude = static_cast<int>(RandomBits(kSeed, stream, 1) % 277) - 149;
  const uint64_t kind = RandomBits(kSeed, stream, 2) % 4;
  for (int d = 0; d < count; ++d) {
    double value = 2 * RandomUniform(kSeed, stream, 3 + d) - 1;
    if (kind == 1 && d % 3 != 0) value = 0;
    if (kind == 2) value = std::ldexp(value, -d % 30);
    x[d] = static_cast<float>(std::ldexp(value, magnitude));
  }
  return x;
}

TEST(RoundKvRowsTest, IsTheDefinition) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  ASSERT_EQ(std::fegetround(), FE_TONEAREST);
  for (uint64_t stream = 0; stream < 3000; ++stream) {
    const std::vector<float> x = RandomRow(2 + static_cast<int>(stream % 67), stream);
    ASSERT_EQ(BitsOf(Rounded(x)), BitsOf(RoundedByDefinition(x))) << "stream " << stream;
  }
}

TEST(RoundKvRowsTest, IsOffByHalfACodeAtMost) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  for (uint64_t stream = 0; stream < 200; ++stream) {
    std::vector<float> x(64);
    for (int d = 0; d < 64; ++d) {
      x[d] = static_cast<float>(2 * RandomUniform(kSeed, stream, d) - 1);
    }
    float largest = 0;
    for (float value : x) largest = std::max(largest, std::abs(value));
    const std::vector<float> rounded = Rounded(x);
    // The scale is less than largest / 63.5.
    for (int d = 0; d < 64; ++d) EXPECT_LE(std::abs(rounded[d] - x[d]), largest / 127);
  }
}

TEST(RoundKvRowsTest, TakesTheSmallestScaleThatHoldsTheLargest) {
  EXPECT_EQ(Rounded({127, 1, 0.4f, -0.6f}), (std::vector<float>{127, 1, 0, -1}));
  EXPECT_EQ(Rounded({std::nextafter(127.0f, 128.0f), 1, 3, 5}),
            (std::vector<float>{128, 0, 4, 4}));  // scale 2, ties to even
  EXPECT_EQ(Rounded({-63.5f, 1, 0.25f, 0.75f}), (std::vector<float>{-63.5f, 1, 0, 1}));
}

TEST(RoundKvRowsTest, GivesPositiveZeros) {
  EXPECT_EQ(BitsOf(Rounded({-0.0f, 0.0f})), BitsOf({0.0f, 0.0f}));
  EXPECT_EQ(BitsOf(Rounded({-0.0f, 100, -0.1f})), BitsOf({0.0f, 100, 0.0f}));
}

TEST(RoundKvRowsTest, KnowsTheEndsOfTheRangeOfNumbers) {
  const float largest = std::numeric_limits<float>::max();
  EXPECT_EQ(Rounded({largest, -largest, 1}), (std::vector<float>{0x1.fcp+127f, -0x1.fcp+127f, 0}));
  const float step = 0x1.0p-126f;
  EXPECT_EQ(Rounded({step, 0.75f * step, 0.25f * step}), (std::vector<float>{step, step, 0}));
  const float denormal = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(BitsOf(Rounded({denormal, -denormal})), BitsOf({0.0f, 0.0f}));
}

TEST(RoundKvRowsTest, MakesARowWithoutSenseOneNaNAndNoOther) {
  ThreadPool pool(1);
  const float odd_nan = std::bit_cast<float>(0xff800001u);
  for (float bad : {kInfinity, -kInfinity, kNaN, odd_nan}) {
    std::vector<float> x = {1, bad, 3, 4};
    RoundKvRows({.x = x.data(), .rows = 1, .heads = 2, .head_dim = 2, .x_stride = 4}, pool);
    EXPECT_EQ(std::bit_cast<uint32_t>(x[0]), kNaNBits);
    EXPECT_EQ(std::bit_cast<uint32_t>(x[1]), kNaNBits);
    EXPECT_EQ(x[2], 3);
    EXPECT_EQ(x[3], 4);
  }
}

TEST(RoundKvRowsTest, LeavesWhatIsRounded) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  for (uint64_t stream = 0; stream < 1000; ++stream) {
    const std::vector<float> once = Rounded(RandomRow(32, stream));
    ASSERT_EQ(BitsOf(Rounded(once)), BitsOf(once)) << "stream " << stream;
  }
}

TEST(RoundKvRowsTest, TouchesHeadsOnlyAndTreatsEachAlone) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  constexpr int kRows = 37, kHeads = 3, kHeadDim = 10, kStride = 41;
  std::vector<float> x(kRows * kStride);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(2 * RandomUniform(kSeed, 7, i) - 1);
  }
  std::vector<float> want = x;
  for (int vector = 0; vector < kRows * kHeads; ++vector) {
    const auto begin = want.begin() + vector / kHeads * kStride + vector % kHeads * kHeadDim;
    const std::vector<float> rounded = Rounded({begin, begin + kHeadDim});
    std::copy(rounded.begin(), rounded.end(), begin);
  }
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    std::vector<float> got = x;
    RoundKvRows({.x = got.data(),
                 .rows = kRows,
                 .heads = kHeads,
                 .head_dim = kHeadDim,
                 .x_stride = kStride},
                pool);
    EXPECT_EQ(got, want) << threads << " threads";
  }
}

// A block that a table has stored, at any address.
struct Block {
  KvShape shape;
  std::vector<std::byte> bytes;

  std::span<std::byte> span() { return bytes; }
  // Sets the bits of one element.
  void Set(int layer, bool is_key, int head, int token, int d, float value) {
    const int64_t tile =
        is_key ? shape.k_tile_offset(layer, head) : shape.v_tile_offset(layer, head);
    const int index = is_key ? shape.k_index(token, d) : shape.v_index(token, d);
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    if (shape.dtype == DType::kF32) {
      std::memcpy(bytes.data() + tile + index * 4, &bits, 4);
    } else {
      const uint16_t upper = static_cast<uint16_t>(bits >> 16);
      std::memcpy(bytes.data() + tile + index * 2, &upper, 2);
    }
  }
};

// `tokens` of them are stored, the others are zeros. Rows of every `nan_period`-th token are NaN.
Block StoredBlock(const KvShape& shape, int tokens, uint64_t seed, const Kernels& table,
                  bool rounded, int nan_period = 0) {
  ThreadPool pool(1);
  Buffer memory(shape.block_bytes());
  const int width = shape.kv_heads * shape.head_dim;
  for (int layer = 0; layer < shape.layers; ++layer) {
    std::vector<float> kv(int64_t{tokens} * 2 * width);
    for (int head = 0; head < tokens * 2 * shape.kv_heads; ++head) {
      const std::vector<float> row = RandomRow(shape.head_dim, seed * 7919 + layer * 613 + head);
      std::copy(row.begin(), row.end(), kv.begin() + int64_t{head} * shape.head_dim);
      if (nan_period > 0 && head / (2 * shape.kv_heads) % nan_period == 0) {
        kv[int64_t{head} * shape.head_dim] = kNaN;
      }
    }
    if (rounded) {
      RoundKvRows({.x = kv.data(),
                   .rows = tokens,
                   .heads = 2 * shape.kv_heads,
                   .head_dim = shape.head_dim,
                   .x_stride = 2 * width},
                  pool);
    }
    const BlockId id = 0;
    const SequenceRows rows{.rows = tokens, .blocks = &id};
    table.store_kv({.k = kv.data(),
                    .v = kv.data() + width,
                    .k_stride = 2 * width,
                    .v_stride = 2 * width,
                    .sequences = {&rows, 1},
                    .layer = layer,
                    .kv = {memory.data(), shape}},
                   pool);
  }
  return {shape, {memory.data(), memory.data() + shape.block_bytes()}};
}

std::vector<KvShape> Shapes() {
  std::vector<KvShape> shapes;
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    shapes.push_back({1, 1, 2, dtype});
    shapes.push_back({2, 3, 18, dtype});
    shapes.push_back({3, 2, 64, dtype});
    shapes.push_back({1, 4, 128, dtype});
  }
  return shapes;
}

std::string TextOf(const KvShape& shape) {
  return testing::PrintToString(shape.layers) + "x" + testing::PrintToString(shape.kv_heads) + "x" +
         testing::PrintToString(shape.head_dim) + " " + NameOf(shape.dtype);
}

class KvCodecTest : public testing::TestWithParam<const Kernels*> {};
INSTANTIATE_TEST_SUITE_P(EveryTable, KvCodecTest, testing::ValuesIn(AvailableKernels()),
                         [](const auto& test) {
                           return TestNameOf(std::string(test.param->name));
                         });

TEST_P(KvCodecTest, GivesBackTheBytesOfEveryRoundedBlock) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  for (const KvShape& shape : Shapes()) {
    for (int tokens : {1, 7, kBlockTokens}) {
      for (int nan_period : {0, 5}) {
        Block block = StoredBlock(shape, tokens, tokens, *GetParam(), true, nan_period);
        std::vector<std::byte> packed(PackedBytes(shape));
        const absl::Status status = PackBlock(shape, block.span(), packed);
        ASSERT_TRUE(status.ok()) << TextOf(shape) << ": " << status;
        std::vector<std::byte> back(block.bytes.size(), std::byte{0xa5});
        ASSERT_TRUE(UnpackBlock(shape, packed, back).ok()) << TextOf(shape);
        EXPECT_EQ(back, block.bytes) << TextOf(shape) << ", " << tokens << " tokens";
      }
    }
  }
}

TEST_P(KvCodecTest, StoresTheSameBytesAsTheReference) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  for (const KvShape& shape : Shapes()) {
    EXPECT_EQ(StoredBlock(shape, 16, 3, *GetParam(), true, 5).bytes,
              StoredBlock(shape, 16, 3, *AvailableKernels().front(), true, 5).bytes)
        << TextOf(shape);
  }
}

TEST_P(KvCodecTest, RefusesABlockThatWasNotRounded) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  for (const KvShape& shape : Shapes()) {
    if (shape.head_dim < 16) continue;
    Block block = StoredBlock(shape, kBlockTokens, 1, *GetParam(), false);
    std::vector<std::byte> packed(PackedBytes(shape));
    const absl::Status status = PackBlock(shape, block.span(), packed);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << TextOf(shape) << ": " << status;
  }
}

// A block of zeros but for one token's rows, which hold a few codes.
Block SmallBlock(const KvShape& shape) {
  Block block{shape, std::vector<std::byte>(shape.block_bytes())};
  for (int layer = 0; layer < shape.layers; ++layer) {
    for (int head = 0; head < shape.kv_heads; ++head) {
      for (bool is_key : {true, false}) {
        block.Set(layer, is_key, head, 5, 0, 127);
        block.Set(layer, is_key, head, 5, 1, -3);
      }
    }
  }
  return block;
}

TEST(PackBlockTest, NamesTheTileAndTheTokenThatDoNotFit) {
  for (const KvShape& shape : Shapes()) {
    if (shape.layers < 2) continue;
    for (bool is_key : {true, false}) {
      for (float value : {0.5f, -0.0f, 128.0f, 1e-30f, 0x1.0p-130f, kInfinity, kNaN,
                          std::bit_cast<float>(0x7fff0000u), std::bit_cast<float>(0xffc00000u)}) {
        for (int d : {1, 2, 17}) {
          Block block = SmallBlock(shape);
          block.Set(1, is_key, 1, 5, d, value);
          std::vector<std::byte> packed(PackedBytes(shape));
          const absl::Status status = PackBlock(shape, block.span(), packed);
          const std::string where = is_key ? "key" : "value";
          EXPECT_TRUE(absl::IsInvalidArgument(status))
              << TextOf(shape) << " " << where << " " << d << ": " << value;
          EXPECT_THAT(std::string(status.message()),
                      HasSubstr("layer 1, " + where + " of head 1, token 5: not in 8 bits"));
        }
      }
    }
  }
}

TEST(PackBlockTest, TakesOneNaNForARowAndNoOther) {
  for (const KvShape& shape : Shapes()) {
    for (uint32_t bits : {0x7fc00000u, 0x7fc10000u, 0xffc00000u, 0x7fa00000u}) {
      for (bool is_key : {true, false}) {
        Block block = SmallBlock(shape);
        for (int d = 0; d < shape.head_dim; ++d) {
          block.Set(0, is_key, 0, 5, d, std::bit_cast<float>(bits));
        }
        std::vector<std::byte> packed(PackedBytes(shape));
        EXPECT_EQ(PackBlock(shape, block.span(), packed).ok(), bits == kNaNBits)
            << TextOf(shape) << " " << std::hex << bits;
      }
    }
  }
}

TEST(PackBlockTest, TakesAboutAQuarterOrHalfOfTheBytes) {
  const KvShape f32{28, 8, 128, DType::kF32};
  const KvShape bf16{28, 8, 128, DType::kBF16};
  EXPECT_EQ(PackedBytes(f32), PackedBytes(bf16));
  EXPECT_EQ(PackedBytes(f32), f32.block_bytes() / 4 * 129 / 128);
}

TEST(PackBlockTest, LaysOutCodesThenExponents) {
  const KvShape shape{1, 1, 2, DType::kF32};
  Block block{shape, std::vector<std::byte>(shape.block_bytes())};
  block.Set(0, true, 0, 3, 0, 100);  // of scale 1
  block.Set(0, true, 0, 3, 1, -7);
  block.Set(0, false, 0, 15, 1, 254);  // of scale 2
  std::vector<std::byte> packed(PackedBytes(shape));
  ASSERT_TRUE(PackBlock(shape, block.span(), packed).ok());
  std::vector<int> want(96);
  want[3] = 100;
  want[16 + 3] = -7;
  std::fill_n(want.begin() + 32, 16, kKvExponentMin);
  want[32 + 3] = 0;
  want[48 + 31] = 127;
  std::fill_n(want.begin() + 80, 16, kKvExponentMin);
  want[80 + 15] = 1;
  std::vector<int> got;
  for (std::byte b : packed) got.push_back(static_cast<int8_t>(b));
  EXPECT_EQ(got, want);
}

TEST(UnpackBlockTest, RefusesAnotherLength) {
  const KvShape shape{1, 1, 2, DType::kBF16};
  std::vector<std::byte> block(shape.block_bytes());
  for (int64_t bytes : {int64_t{0}, PackedBytes(shape) - 1, PackedBytes(shape) + 1}) {
    const absl::Status status = UnpackBlock(shape, std::vector<std::byte>(bytes), block);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << bytes;
    EXPECT_THAT(std::string(status.message()), HasSubstr("this model's has 96"));
  }
}

TEST(UnpackBlockTest, RefusesCodesAndExponentsThatPackingNeverWrites) {
  for (const KvShape& shape : Shapes()) {
    Block block = SmallBlock(shape);
    std::vector<std::byte> packed(PackedBytes(shape));
    ASSERT_TRUE(PackBlock(shape, block.span(), packed).ok());
    const int64_t codes = int64_t{kBlockTokens} * shape.head_dim;
    for (int64_t tile : {int64_t{0}, PackedBytes(shape) / (codes + kBlockTokens) - 1}) {
      const int64_t begin = tile * (codes + kBlockTokens);
      const auto refuses = [&](int64_t at, int value) {
        std::vector<std::byte> changed = packed;
        changed[begin + at] = static_cast<std::byte>(value);
        return absl::IsInvalidArgument(UnpackBlock(shape, changed, block.span()));
      };
      for (int64_t at : {int64_t{0}, codes / 2, codes - 1}) EXPECT_TRUE(refuses(at, -128));
      for (int64_t at : {codes, codes + kBlockTokens - 1}) {
        EXPECT_TRUE(refuses(at, kKvExponentMax + 1));
        EXPECT_TRUE(refuses(at, 127));
        EXPECT_TRUE(refuses(at, -127));
        EXPECT_FALSE(refuses(at, kKvNotFinite));
        EXPECT_FALSE(refuses(at, kKvExponentMax));
      }
    }
  }
}

TEST(UnpackBlockTest, MakesOfAnyBytesABlockThatUnpacksAlikeOrNone) {
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  int taken = 0;
  for (uint64_t stream = 0; stream < 400; ++stream) {
    const KvShape shape = Shapes()[stream % Shapes().size()];
    std::vector<std::byte> packed(PackedBytes(shape));
    for (size_t i = 0; i < packed.size(); ++i) {
      // Half of them without a code of -128.
      const int byte = static_cast<int>(RandomBits(kSeed, stream, i) & 0xff);
      packed[i] = static_cast<std::byte>(stream % 2 == 0 && byte == 0x80 ? 0 : byte);
      if (stream % 2 == 0) packed[i] &= std::byte{0x77};
    }
    std::vector<std::byte> block(shape.block_bytes()), again(shape.block_bytes());
    if (!UnpackBlock(shape, packed, block).ok()) continue;
    ++taken;
    ASSERT_TRUE(PackBlock(shape, block, packed).ok()) << stream;
    ASSERT_TRUE(UnpackBlock(shape, packed, again).ok()) << stream;
    ASSERT_EQ(again, block) << stream;
  }
  EXPECT_GT(taken, 100);
}

}  // namespace
}  // namespace chorale::kernels
