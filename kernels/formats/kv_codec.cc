// The loops run over a fixed count of lanes and know no branches, so that the compiler turns them
// into vector instructions of whatever it compiles for. Nothing here rounds but one addition (of
// kMagic): products with powers of two are exact, fused or not.
#include "kernels/formats/kv_codec.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <limits>
#include <type_traits>

#include "absl/strings/str_format.h"
#include "base/check.h"

namespace chorale::kernels {
namespace {

constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to a whole number
constexpr float kCodeMax = 127;
constexpr int32_t kInfinityBits = 0x7f800000;
constexpr int32_t kNaNBits = 0x7fc00000;
constexpr int32_t kUpperHalf = -0x10000;
constexpr int kNoCode = 0x80;  // -128
// Lanes of a loop: the tokens of a vector of a K tile, or a part of a V row. A lane is four bytes
// of a tile, an f32 or two bf16 of one token; the first lies in the lower half.
constexpr int kLanes = kBlockTokens;
constexpr int kLaneBytes = 4;
constexpr int kRowsPerTask = 16;

// Of one row, by the bits of its largest magnitude.
struct RowScale {
  int exponent;
  float scale;    // 2^exponent, or NaN
  float inverse;  // 2^-exponent, or NaN
};

RowScale ScaleOf(int32_t magnitude_bits) {
  if (magnitude_bits >= kInfinityBits) {
    const float nan = std::bit_cast<float>(kNaNBits);
    return {kKvNotFinite, nan, nan};
  }
  // 127 is 1.984375 * 2^6: a number with no greater fraction fits six binary places further down.
  constexpr int32_t kFractionMask = (1 << 23) - 1;
  constexpr int32_t kFractionOf127 = std::bit_cast<int32_t>(kCodeMax) & kFractionMask;
  const int places = (magnitude_bits & kFractionMask) <= kFractionOf127 ? 6 : 5;
  const int exponent =
      std::clamp((magnitude_bits >> 23) - 127 - places, kKvExponentMin, kKvExponentMax);
  return {exponent, std::bit_cast<float>((exponent + 127) << 23),
          std::bit_cast<float>((127 - exponent) << 23)};
}

// A scale to a lane.
struct LaneScales {
  float scale[kLanes];
  float inverse[kLanes];

  void Set(int lane, const RowScale& by) {
    scale[lane] = by.scale;
    inverse[lane] = by.inverse;
  }
  void SetAll(const RowScale& by) {
    for (int i = 0; i < kLanes; ++i) Set(i, by);
  }
};

// Elements are int32_t, the bits of an f32, or int16_t, those of a bf16. A number's bits compare as
// its magnitude does, and NaN and infinities are above all others.
template <typename Element>
constexpr int kPerLane = kLaneBytes / sizeof(Element);

int32_t WideBits(int32_t element) { return element; }
int32_t WideBits(int16_t element) { return int32_t{element} << 16; }

// largest[i] = max(largest[i], |x[i]|) for the elements of `lanes` lanes.
template <typename Element, int lanes>
void MaxMagnitudes(const std::byte* x, Element* largest) {
  constexpr int kElements = lanes * kPerLane<Element>;
  Element elements[kElements];
  std::memcpy(elements, x, sizeof(elements));
  for (int i = 0; i < kElements; ++i) {
    const Element magnitude = elements[i] & std::numeric_limits<Element>::max();
    largest[i] = magnitude > largest[i] ? magnitude : largest[i];
  }
}

// The code of a number in the lowest byte, under others. lost becomes other than zero when the code
// times the scale is not the number, bit for bit.
int32_t CodeOf(int32_t bits, float scale, float inverse, int32_t& lost) {
  const float shifted = std::bit_cast<float>(bits) * inverse + kMagic;
  lost |= std::bit_cast<int32_t>((shifted - kMagic) * scale) ^ bits;
  return std::bit_cast<int32_t>(shifted);
}

// codes * scale = x, or else lost[lane] is not zero.
template <typename Element, int lanes>
void Encode(const std::byte* x, const LaneScales& by, std::byte* codes, int32_t* lost) {
  int32_t in[lanes];
  std::memcpy(in, x, sizeof(in));
  if constexpr (kPerLane<Element> == 1) {
    int8_t out[lanes];
    for (int i = 0; i < lanes; ++i) {
      out[i] = static_cast<int8_t>(CodeOf(in[i], by.scale[i], by.inverse[i], lost[i]));
    }
    std::memcpy(codes, out, sizeof(out));
  } else {
    int16_t out[lanes];
    for (int i = 0; i < lanes; ++i) {
      const int32_t low = CodeOf(in[i] << 16, by.scale[i], by.inverse[i], lost[i]);
      const int32_t high = CodeOf(in[i] & kUpperHalf, by.scale[i], by.inverse[i], lost[i]);
      out[i] = static_cast<int16_t>((low & 0xff) | (high << 8));
    }
    std::memcpy(codes, out, sizeof(out));
  }
}

// x = codes * scale.
template <typename Element, int lanes>
void Decode(const std::byte* codes, const LaneScales& by, std::byte* x) {
  int32_t out[lanes];
  if constexpr (kPerLane<Element> == 1) {
    int8_t in[lanes];
    std::memcpy(in, codes, sizeof(in));
    for (int i = 0; i < lanes; ++i) {
      out[i] = std::bit_cast<int32_t>(static_cast<float>(in[i]) * by.scale[i]);
    }
  } else {
    int16_t in[lanes];
    std::memcpy(in, codes, sizeof(in));
    for (int i = 0; i < lanes; ++i) {
      const int32_t low = int32_t{in[i]} << 24 >> 24, high = int32_t{in[i]} >> 8;
      const float x_low = static_cast<float>(low) * by.scale[i];
      const float x_high = static_cast<float>(high) * by.scale[i];
      out[i] = static_cast<int32_t>(std::bit_cast<uint32_t>(x_low) >> 16) |
               (std::bit_cast<int32_t>(x_high) & kUpperHalf);
    }
  }
  std::memcpy(x, out, sizeof(out));
}

// Calls fn(width, begin) over `count` lanes, kLanes at a time and the rest one by one; width is a
// std::integral_constant.
template <typename Fn>
void ForLanes(int count, Fn fn) {
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) fn(std::integral_constant<int, kLanes>(), i);
  for (; i < count; ++i) fn(std::integral_constant<int, 1>(), i);
}

template <typename Element>
class Tile {
 public:
  Tile(bool is_key, int head_dim) : is_key_(is_key), head_dim_(head_dim) {}

  // Returns the first token with a value that no code stands for, or -1.
  int Pack(const std::byte* tile, std::byte* packed) const {
    RowScale rows[kBlockTokens];
    FindScales(tile, rows);
    std::byte* exponents = packed + kBlockTokens * head_dim_;
    for (int t = 0; t < kBlockTokens; ++t) {
      if (rows[t].exponent == kKvNotFinite && !IsNaNRow(tile, t)) return t;
      exponents[t] = static_cast<std::byte>(rows[t].exponent);
    }
    int32_t lost[kLanes] = {};
    const auto find_lost = [&] {
      return std::find_if(lost, lost + kLanes, [](int32_t l) { return l != 0; }) - lost;
    };
    LaneScales by;
    if (is_key_) {
      for (int t = 0; t < kBlockTokens; ++t) by.Set(t, rows[t]);
      for (int i = 0; i < kBlockTokens * lanes_per_row(); i += kLanes) {
        Encode<Element, kLanes>(tile + i * kLaneBytes, by, packed + i * kPer, lost);
      }
      return find_lost() < kLanes ? static_cast<int>(find_lost()) : -1;
    }
    for (int t = 0; t < kBlockTokens; ++t) {
      by.SetAll(rows[t]);
      ForLanes(lanes_per_row(), [&](auto width, int i) {
        const int lane = t * lanes_per_row() + i;
        Encode<Element, width>(tile + lane * kLaneBytes, by, packed + lane * kPer, lost);
      });
      if (find_lost() < kLanes) return t;
    }
    return -1;
  }

  // False: a code or an exponent that Pack never writes.
  bool Unpack(const std::byte* packed, std::byte* tile) const {
    const int codes = kBlockTokens * head_dim_;
    if (std::memchr(packed, kNoCode, codes) != nullptr) return false;
    LaneScales of_tokens, by;
    for (int t = 0; t < kBlockTokens; ++t) {
      const int exponent = static_cast<int8_t>(packed[codes + t]);
      const bool finite = exponent != kKvNotFinite;
      if (finite && (exponent < kKvExponentMin || exponent > kKvExponentMax)) return false;
      of_tokens.scale[t] = std::bit_cast<float>(finite ? (exponent + 127) << 23 : kNaNBits);
    }
    if (is_key_) {
      for (int i = 0; i < kBlockTokens * lanes_per_row(); i += kLanes) {
        Decode<Element, kLanes>(packed + i * kPer, of_tokens, tile + i * kLaneBytes);
      }
      return true;
    }
    for (int t = 0; t < kBlockTokens; ++t) {
      std::fill_n(by.scale, kLanes, of_tokens.scale[t]);
      ForLanes(lanes_per_row(), [&](auto width, int i) {
        const int lane = t * lanes_per_row() + i;
        Decode<Element, width>(packed + lane * kPer, by, tile + lane * kLaneBytes);
      });
    }
    return true;
  }

 private:
  static constexpr int kPer = kPerLane<Element>;
  int lanes_per_row() const { return head_dim_ / kPer; }

  // The scale of every token.
  void FindScales(const std::byte* tile, RowScale* rows) const {
    Element largest[kLanes * kPer] = {};
    if (is_key_) {
      for (int i = 0; i < kBlockTokens * lanes_per_row(); i += kLanes) {
        MaxMagnitudes<Element, kLanes>(tile + i * kLaneBytes, largest);
      }
      for (int t = 0; t < kBlockTokens; ++t) {
        rows[t] =
            ScaleOf(WideBits(*std::max_element(largest + t * kPer, largest + (t + 1) * kPer)));
      }
      return;
    }
    for (int t = 0; t < kBlockTokens; ++t) {
      std::fill(std::begin(largest), std::end(largest), Element{0});
      ForLanes(lanes_per_row(), [&](auto width, int i) {
        MaxMagnitudes<Element, width>(tile + (t * lanes_per_row() + i) * kLaneBytes, largest);
      });
      rows[t] = ScaleOf(WideBits(*std::max_element(std::begin(largest), std::end(largest))));
    }
  }

  // Whether all elements of a token are the one NaN that rows of NaN are made of. Arithmetic alone
  // would let others pass.
  bool IsNaNRow(const std::byte* tile, int token) const {
    for (int i = 0; i < lanes_per_row(); ++i) {
      const int lane = is_key_ ? i * kLanes + token : token * lanes_per_row() + i;
      Element elements[kPer];
      std::memcpy(elements, tile + lane * kLaneBytes, kLaneBytes);
      for (Element element : elements) {
        if (WideBits(element) != kNaNBits) return false;
      }
    }
    return true;
  }

  const bool is_key_;
  const int head_dim_;
};

// Parts of kLanes first, as MaxMagnitudes knows them.
int32_t MaxMagnitude(const float* x, int count) {
  int32_t largest[kLanes] = {};
  ForLanes(count, [&](auto width, int i) {
    MaxMagnitudes<int32_t, width>(reinterpret_cast<const std::byte*>(x + i), largest);
  });
  return *std::max_element(largest, largest + kLanes);
}

void RoundVector(float* x, int count) {
  const RowScale by = ScaleOf(MaxMagnitude(x, count));
  if (by.exponent == kKvNotFinite) {
    std::fill_n(x, count, by.scale);
    return;
  }
  ForLanes(count, [&](auto width, int begin) {
    float part[width];
    std::memcpy(part, x + begin, sizeof(part));
    for (int i = 0; i < width; ++i) {
      float code = (part[i] * by.inverse + kMagic) - kMagic;
      code = code > kCodeMax ? kCodeMax : code;
      code = code < -kCodeMax ? -kCodeMax : code;
      part[i] = code * by.scale;
    }
    std::memcpy(x + begin, part, sizeof(part));
  });
}

int64_t PackedTileBytes(const KvShape& shape) {
  return int64_t{kBlockTokens} * (shape.head_dim + 1);
}

// Calls fn(tile, of_block, of_packed), which returns a status, with every tile of a block.
template <typename Fn>
absl::Status ForTiles(const KvShape& shape, Fn fn) {
  const int tiles = 2 * shape.layers * shape.kv_heads;
  for (int tile = 0; tile < tiles; ++tile) {
    absl::Status status = fn(tile, tile * shape.tile_bytes(), tile * PackedTileBytes(shape));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

bool IsKey(const KvShape& shape, int tile) { return tile / shape.kv_heads % 2 == 0; }

std::string NameOfTile(const KvShape& shape, int tile) {
  return absl::StrFormat("layer %d, %s of head %d", tile / (2 * shape.kv_heads),
                         IsKey(shape, tile) ? "key" : "value", tile % shape.kv_heads);
}

template <typename T>
absl::Status PackTiles(const KvShape& shape, const std::byte* block, std::byte* packed) {
  return ForTiles(shape, [&](int tile, int64_t of_block, int64_t of_packed) {
    const int token =
        Tile<T>(IsKey(shape, tile), shape.head_dim).Pack(block + of_block, packed + of_packed);
    if (token < 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s, token %d: not in 8 bits; only blocks written with --kv int8 can be packed",
        NameOfTile(shape, tile), token));
  });
}

template <typename T>
absl::Status UnpackTiles(const KvShape& shape, const std::byte* packed, std::byte* block) {
  return ForTiles(shape, [&](int tile, int64_t of_block, int64_t of_packed) {
    if (Tile<T>(IsKey(shape, tile), shape.head_dim).Unpack(packed + of_packed, block + of_block)) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: a code of -128, or an exponent outside [%d, %d]; the packed block is "
                        "damaged, read it again",
                        NameOfTile(shape, tile), kKvExponentMin, kKvExponentMax));
  });
}

}  // namespace

void RoundKvRows(const KvRows& args, ThreadPool& pool) {
  const int tasks = (args.rows + kRowsPerTask - 1) / kRowsPerTask;
  pool.ParallelFor(tasks, [&](int task) {
    const int end = std::min(args.rows, (task + 1) * kRowsPerTask);
    for (int row = task * kRowsPerTask; row < end; ++row) {
      float* x = args.x + row * args.x_stride;
      for (int head = 0; head < args.heads; ++head) {
        RoundVector(x + int64_t{head} * args.head_dim, args.head_dim);
      }
    }
  });
}

int64_t PackedBytes(const KvShape& shape) {
  return 2 * int64_t{shape.layers} * shape.kv_heads * PackedTileBytes(shape);
}

absl::Status PackBlock(const KvShape& shape, std::span<const std::byte> block,
                       std::span<std::byte> packed) {
  CHECK_EQ(static_cast<int64_t>(block.size()), shape.block_bytes());
  CHECK_EQ(static_cast<int64_t>(packed.size()), PackedBytes(shape));
  return shape.dtype == DType::kF32 ? PackTiles<int32_t>(shape, block.data(), packed.data())
                                    : PackTiles<int16_t>(shape, block.data(), packed.data());
}

absl::Status UnpackBlock(const KvShape& shape, std::span<const std::byte> packed,
                         std::span<std::byte> block) {
  CHECK_EQ(static_cast<int64_t>(block.size()), shape.block_bytes());
  if (static_cast<int64_t>(packed.size()) != PackedBytes(shape)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "packed block of %d bytes; this model's has %d", packed.size(), PackedBytes(shape)));
  }
  return shape.dtype == DType::kF32 ? UnpackTiles<int32_t>(shape, packed.data(), block.data())
                                    : UnpackTiles<int16_t>(shape, packed.data(), block.data());
}

}  // namespace chorale::kernels
