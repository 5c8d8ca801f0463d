// Keys and values in 8 bits: rounded once, where they are written, and from then on the same
// everywhere.
//
// A row is the key or the value of one token under one head: head_dim numbers. It is rounded to
//
//   x' = code * 2^e,   code a whole number in [-127, 127],
//   e = the smallest in [kKvExponentMin, kKvExponentMax] with max|x| <= 127 * 2^e
//
// to nearest, ties to even; what lies beyond 127 * 2^kKvExponentMax becomes that. Scaling by a
// power of two is exact, so the result is the same on every machine, and f32 and bf16 both hold it
// exactly: pools and attention need not know. Zeros are +0. A row with a NaN or an infinity is NaN
// throughout (bits 0x7fc00000), so that it is noticed, not hidden.
//
// A block of such rows packs into codes and exponents without loss, to about 1/2 (bf16) or 1/4
// (f32) of its bytes:
//
//   [layer][K or V][kv_head] -> codes (int8) in the order of the tile's elements, then kBlockTokens
//                               exponents (int8); kKvNotFinite: a row of NaN, its codes are 0
//
// Thread safe: there is no state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "kernels/tensor.h"
#include "kernels/thread_pool.h"

namespace chorale::kernels {

// No code times its scale is denormal or overflows.
inline constexpr int kKvExponentMin = -126;
inline constexpr int kKvExponentMax = 121;
inline constexpr int kKvNotFinite = -128;
// Of the rounding and the packing, in every digest of a writer that rounds.
inline constexpr int kKvCodecVersion = 1;

// Some vectors to be rounded: those of one row lie head_dim apart, rows lie x_stride apart.
struct KvRows {
  float* x = nullptr;  // [rows, heads, head_dim]
  int rows = 0;
  int heads = 0;  // keys and values alike
  int head_dim = 0;
  int64_t x_stride = 0;
};

// In place. What is rounded already stays as it is.
void RoundKvRows(const KvRows& args, ThreadPool& pool);

// Bytes of a packed block.
int64_t PackedBytes(const KvShape& shape);

// Packs `block`, shape.block_bytes() long, into `packed`, PackedBytes(shape) long. InvalidArgument
// names the first tile and token with a value that was not rounded; `packed` is then of no use.
// `block` and `packed` may begin at any address. Speed: bench_kernels --only kv.
absl::Status PackBlock(const KvShape& shape, std::span<const std::byte> block,
                       std::span<std::byte> packed);

// The inverse: exactly the bytes that were packed. `packed` may come from outside: InvalidArgument
// when it has another length, or a code or exponent that PackBlock never writes; `block` is then of
// no use.
absl::Status UnpackBlock(const KvShape& shape, std::span<const std::byte> packed,
                         std::span<std::byte> block);

}  // namespace chorale::kernels
