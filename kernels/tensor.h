// The plain data that kernels work on: element types, weight matrices, paged key/value blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/check.h"

namespace chorale::kernels {

// The last two are for weights alone: whole numbers with a scale to a group, see quantize.h.
enum class DType : uint8_t { kF32, kF16, kBF16, kI8, kI4 };

constexpr bool IsQuantized(DType t) { return t == DType::kI8 || t == DType::kI4; }
// Of one element; only for types of which an element stands alone.
inline int BytesOf(DType t) {
  CHECK(!IsQuantized(t));
  return t == DType::kF32 ? 4 : 2;
}
const char* NameOf(DType t);  // "f32", "f16", "bf16", "int8", "int4"

float BF16ToF32(uint16_t bits);
uint16_t F32ToBF16(float value);  // rounds to nearest even; NaN stays NaN
float F16ToF32(uint16_t bits);

// A borrowed matrix as a checkpoint stores it: row-major, rows = output features.
struct MatrixView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int rows = 0;
  int cols = 0;
};

// Owned memory, aligned to 64 bytes and, where the kernel allows, on huge pages: DRAM reads of 4
// KiB pages stop at about half the bandwidth of two cores (docs/PERFORMANCE.md). Zeroed at first.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }

 private:
  struct Unmap {
    size_t bytes;
    void operator()(std::byte* p) const;
  };
  std::unique_ptr<std::byte, Unmap> data_;
  size_t bytes_ = 0;
};

// A weight matrix in the layout that the kernels which packed it read fastest. Only those kernels
// may read it. dtype is kF32 or kBF16 (an f16 checkpoint is widened to f32, which is exact), or kI8
// or kI4, data then holding the scales of the groups too.
struct PackedMatrix {
  int rows = 0;  // output features
  int cols = 0;  // input features
  DType dtype = DType::kF32;
  Buffer data;
};

// Tokens in one key/value block, the unit of paging, sharing and transfer.
inline constexpr int kBlockTokens = 16;

// The shape of a model's key/value blocks. One block holds kBlockTokens tokens of every layer, as
//
//   [layer][K or V][kv_head] -> a tile of kBlockTokens x head_dim elements
//
// A V tile is row-major [token][head_dim]. A K tile is transposed so that one vector register holds
// one dimension of all 16 tokens and a score needs no horizontal sum:
//   f32:  element (token, d) at d * 16 + token
//   bf16: element (token, d) at (d / 2) * 32 + token * 2 + d % 2   (pairs, for vdpbf16ps)
// This layout is part of a module's digest (kKvLayoutVersion).
struct KvShape {
  int layers = 0;
  int kv_heads = 0;
  int head_dim = 0;           // even
  DType dtype = DType::kF32;  // kF32 or kBF16

  bool operator==(const KvShape&) const = default;
  int64_t tile_bytes() const { return int64_t{kBlockTokens} * head_dim * BytesOf(dtype); }
  int64_t block_bytes() const { return 2 * int64_t{layers} * kv_heads * tile_bytes(); }
  int64_t k_tile_offset(int layer, int kv_head) const {
    return (int64_t{layer} * 2 * kv_heads + kv_head) * tile_bytes();
  }
  int64_t v_tile_offset(int layer, int kv_head) const {
    return (int64_t{layer} * 2 * kv_heads + kv_heads + kv_head) * tile_bytes();
  }
  // Index of an element inside its tile, in elements.
  int k_index(int token, int d) const {
    return dtype == DType::kF32 ? d * kBlockTokens + token
                                : (d / 2) * 2 * kBlockTokens + token * 2 + d % 2;
  }
  int v_index(int token, int d) const { return token * head_dim + d; }
};
inline constexpr int kKvLayoutVersion = 1;

// Index of a block in its pool's memory.
using BlockId = int32_t;

// The memory of a block pool: block b begins at data + b * shape.block_bytes().
struct KvMemory {
  std::byte* data = nullptr;
  KvShape shape;
};

}  // namespace chorale::kernels
