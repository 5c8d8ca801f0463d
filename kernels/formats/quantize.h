// Weights of 8 and of 4 bits: their canonical form, and how they are made from a checkpoint's.
//
// A row is cut into groups of kQuantGroup columns, the last of them shorter where the columns run
// out. A group shares one scale, a bf16 value, and a weight is scale * q:
//
//   int8   q in [-127, 127], scale >= 0              code q + 128, one to a byte
//   int4   q in [-8, 7], scale of either sign        code q + 8, two to a byte, low nibble first
//
// Rows lie one after the other, in their own order, each padded to whole groups with codes that
// mean zero: 32 bytes a group at 8 bits, 16 at 4. The scales are [rows, groups]. A product scale *
// q is exact in f32. These bytes are what a module's digest covers and what a converted checkpoint
// holds (kQuantVersion); kernels repack them (Kernels::pack_quantized). No byte is invalid: codes
// and scales of any value may be read from a file, a scale that is not finite makes the results
// that it touches not finite.
//
// Quantize gives the same bytes on every machine and for every number of threads: it uses nothing
// but IEEE additions, multiplications and divisions in a fixed order.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/tensor.h"
#include "kernels/thread_pool.h"

namespace chorale::kernels {

inline constexpr int kQuantGroup = 32;
inline constexpr int kQuantVersion = 1;

constexpr int QuantGroups(int cols) { return cols / kQuantGroup + (cols % kQuantGroup != 0); }

// Bytes of codes of one row; dtype is kI8 or kI4.
constexpr int64_t CodeBytesOfRow(DType dtype, int cols) {
  return int64_t{QuantGroups(cols)} * (dtype == DType::kI4 ? kQuantGroup / 2 : kQuantGroup);
}

// A borrowed quantised matrix, in a file's mapping for example: no alignment is needed.
struct QuantizedView {
  const uint8_t* codes = nullptr;  // [rows, CodeBytesOfRow]
  const void* scales = nullptr;    // bf16, little-endian, [rows, QuantGroups]
  int rows = 0;
  int cols = 0;
  DType dtype = DType::kI8;  // kI8 or kI4
};

struct QuantizedMatrix {
  int rows = 0;
  int cols = 0;
  DType dtype = DType::kI8;
  std::vector<uint8_t> codes;
  std::vector<uint16_t> scales;

  QuantizedView view() const { return {codes.data(), scales.data(), rows, cols, dtype}; }
};

// The weights of `w` (f32, f16 or bf16) at 8 or 4 bits (dtype). Of several scales a group takes the
// one of the least squared error, at most that of rounding to the nearest multiple of the group's
// largest magnitude / 127 or / 7, itself rounded to bf16.
//
// A group whose magnitudes are all below 2^-100 becomes zero. A group that holds a NaN, an infinity
// or a magnitude of 2^120 or more gets a NaN for its scale: all its weights read as NaN, as a sum
// with one of them would have.
QuantizedMatrix Quantize(const MatrixView& w, DType dtype, ThreadPool& pool);

// out[w.cols] = row `row` of w.
void DequantizeRow(const QuantizedView& w, int row, float* out);

}  // namespace chorale::kernels
