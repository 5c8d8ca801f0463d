// What an instruction set has to provide to the cpu table: loops over plain pointers, one thread.
//
// cpu/cpu.cc splits every operation over the pool and calls these. The loops are written once, in
// loops.inc, over the compiler's vector types; portable.cc, avx2.cc and avx512.cc
// each compile them with their own flags and add the few instructions that matter. Such a file must
// define nothing but its table's function outside an anonymous namespace: an inline function
// compiled for a new processor could otherwise be the copy that the linker keeps for an old one
// (tests/kernels/no_weak_symbols.cmake). Hence this header holds plain data only.
#pragma once

#include <cstdint>

namespace chorale::kernels {

// A packed weight matrix is cut into panels of kPanel output features; the last is as wide as its
// features rounded up to kPanelUnit. Inside a panel, one step of the sum lies together:
//
//   f32:  word (step k, feature n)     = w[n][k]
//   bf16: word (step k / 2, feature n) = w[n][k], w[n][k + 1]     (a pair, for vdpbf16ps)
//
// at word step * width + n. A word has 4 bytes in both. A thread reads its panels front to back:
// one stream from memory. Cells beyond the matrix are zero.
inline constexpr int kPanel = 64;
inline constexpr int kPanelUnit = 16;

struct MatmulLoop {
  const float* w;  // words of the whole packed matrix
  int features;    // its rows
  int steps;       // words per feature
  bool bf16;
  const float* x;    // words: f32 values, or pairs rounded by `round_pairs`
  int64_t x_stride;  // words
  int m;
  float* y;
  int64_t y_stride;
  const float* bias;  // or null
  bool accumulate;
  int panel_begin;
  int panel_end;
};

// A packed quantised matrix is cut into strips of kStrip output features, the last filled up with
// scales of zero. A strip holds one group of columns after the other (quantize.h): first the bf16
// scales of its features, then their codes,
//
//   int8: word (step k, feature n)     = codes of columns 4 k .. 4 k + 3, one to a byte
//   int4: word (step k / 2, feature n) = the same of an even step k in the low halves of its bytes,
//                                        of step k + 1 in the high ones
//
// at word step * kStrip + n. A thread reads its strips front to back: one stream from memory.
//
// Rows of x come in blocks of kBlockRows, the last with those that are left. Of each group of
// columns a block of r rows holds codes [r][kGroupColumns], then f32 scales [r], then starts [r]:
// the sum of a row's codes times minus the offset of w's codes. A result's sum begins with it, so
// that w's codes need not be made signed.
inline constexpr int kStrip = 32;
inline constexpr int kGroupColumns = 32;
inline constexpr int kBlockRows = 8;
inline constexpr int kRoundedGroupBytes = kGroupColumns + 4 + 4;  // of one row
// Of one group of a strip.
inline constexpr int kInt8GroupBytes = kStrip * (2 + kGroupColumns);
inline constexpr int kInt4GroupBytes = kStrip * (2 + kGroupColumns / 2);

struct QuantizedLoop {
  const unsigned char* w;  // the whole packed matrix
  int features;            // its rows
  int groups;              // of columns
  bool int4;
  const unsigned char* x;
  int m;
  float* y;
  int64_t y_stride;
  const float* bias;  // or null
  bool accumulate;
  int strip_begin;
  int strip_end;
};

// Attention of some queries to one stretch of a sequence's tokens. Query i is head i % group of the
// kv head's group in row i / group; it sees tokens up to and including context + i / group, of
// these the last `window`.
struct AttentionLoop {
  const float* q;  // row 0, first head of the group
  int64_t q_stride;
  int rows;        // of the sequence; a reader row comes after them
  int64_t reader;  // elements from row 0 to the reader row
  int group;
  int query_begin;
  int query_end;
  int head_dim;
  float scale;
  int context;
  int window;  // 0: all
  const int32_t* blocks;
  const unsigned char* k_tiles;  // the tiles of this layer and kv head in block 0
  const unsigned char* v_tiles;
  int64_t block_bytes;
  bool bf16;
  int token_begin;  // a multiple of kTileTokens
  int token_end;    // of the same multiple of kSegmentTokens
  // Results of query query_begin + i: the highest score, the sum of exp(score - highest) and the
  // values weighted by it.
  float* highest;  // [queries]
  float* sum;      // [queries]
  float* mixed;    // [queries, head_dim]
  float* scratch;  // [queries, kSegmentTokens + head_dim]
};

inline constexpr int kTileTokens = 16;
inline constexpr int kSegmentTokens = 512;

struct CpuLoops {
  const char* name;
  // Rounds n values to bf16, to nearest even; an odd n gets a zero after it.
  void (*round_pairs)(const float* x, int n, float* words);
  void (*matmul)(const MatmulLoop& loop);
  // Rounds 1 to kBlockRows rows of x into a block.
  void (*round_groups)(const float* x, int64_t x_stride, int rows, int cols, bool int4,
                       unsigned char* block);
  void (*quantized_matmul)(const QuantizedLoop& loop);
  void (*attend)(const AttentionLoop& loop);
  // Joins stretch b of one query into stretch a: {highest, sum, mixed[n]}.
  void (*join)(float* a_highest, float* a_sum, float* a_mixed, float b_highest, float b_sum,
               const float* b_mixed, int n);
  void (*rms_norm)(const float* x, const float* weight, float eps, int n, float* out);
  void (*rope)(float* x, const float* cos, const float* sin, int half);
  void (*swiglu)(const float* gate, const float* up, int n, float* out);
  void (*scale)(const float* x, float factor, int n, float* out);
  void (*add)(float* x, const float* y, int64_t n);
  int (*argmax)(const float* x, int n);
  double (*exp_scaled)(float* x, int n, float scale);
};

const CpuLoops& PortableLoops();
const CpuLoops& Avx2Loops();
const CpuLoops& Avx512Loops();

}  // namespace chorale::kernels
