// The arithmetic of a transformer, as a table of functions chosen once at start.
//
// `reference` is plain and sums in double: it judges the others. `cpu` is the fast default; it
// picks its instruction set at run time. tests/kernels runs every table against the reference over
// many shapes and states the error bound of each op; a new table is added there by one line.
//
// Activations are f32, row-major. A row's result never depends on the other rows of its batch, bit
// for bit. Every function may use all threads of the pool it is handed and returns when the work is
// done. Arguments are CHECKed: shapes are our own doing,
// checked against the model file long before.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/formats/quantize.h"
#include "kernels/tensor.h"
#include "kernels/thread_pool.h"

namespace chorale::kernels {

// y[m, w.rows] = x[m, w.cols] * w^T (+ bias). w may be f32, bf16 or quantised. With quantised
// weights the cpu tables round x as well: to 8 bits, each row in groups of kQuantGroup with a scale
// of their own, the group's largest magnitude / 127. A group of x that holds a NaN or an infinity
// makes its row of y NaN.
struct MatmulArgs {
  const PackedMatrix& w;
  const float* x = nullptr;
  int m = 0;
  int64_t x_stride = 0;  // elements from row to row, >= w.cols
  float* y = nullptr;
  int64_t y_stride = 0;         // >= w.rows
  const float* bias = nullptr;  // [w.rows] or null
  bool accumulate = false;      // y += instead of y =
};

// out[r, :] = x[r, :] / sqrt(mean(x[r, :]^2) + eps) * weight, over rows x groups vectors of `dim`:
// the vectors of one row lie `dim` apart, rows lie `x_stride` apart. groups = 1 is the ordinary
// norm, groups = heads the q/k norm of Qwen3. out may be x.
struct RmsNormArgs {
  const float* x = nullptr;
  int rows = 0;
  int groups = 1;
  int dim = 0;
  int64_t x_stride = 0;
  const float* weight = nullptr;  // [dim]
  float eps = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
};

// Rotates pairs (d, d + head_dim / 2) of every head in place (RoFormer section 3.4, in the order of
// halves that Hugging Face checkpoints use).
struct RopeArgs {
  float* x = nullptr;  // [rows, heads, head_dim], rows x_stride apart
  int rows = 0;
  int heads = 0;
  int head_dim = 0;
  int64_t x_stride = 0;
  const float* cos = nullptr;  // [rows, head_dim / 2]
  const float* sin = nullptr;
};

// Some consecutive rows of a batch that belong to one sequence.
struct SequenceRows {
  int row_begin = 0;
  int rows = 0;
  int context = 0;  // tokens of this sequence in the cache before the first of these rows
  const BlockId* blocks = nullptr;  // ceil((context + rows) / kBlockTokens) of them
  // A further row that asks what the last of these may see and stores nothing, or -1: the reader
  // beside the writer (ICaRus, arXiv 2603.13281, section 3). Both ask in one pass over the K/V.
  int reader_row = -1;

  int queries() const { return rows + (reader_row >= 0 ? 1 : 0); }
  int row_of(int query) const { return query < rows ? row_begin + query : reader_row; }
  // How many tokens a query sees.
  int visible(int query) const { return context + (query < rows ? query : rows - 1) + 1; }
};

// Writes the keys and values of new tokens into their blocks, rounding to the blocks' dtype.
struct StoreKvArgs {
  const float* k = nullptr;  // [rows, kv_heads, head_dim], rows k_stride apart
  const float* v = nullptr;
  int64_t k_stride = 0;
  int64_t v_stride = 0;
  std::span<const SequenceRows> sequences;
  int layer = 0;
  KvMemory kv;
};

// Causal attention with grouped queries over paged blocks (PagedAttention, section 4.1; GQA,
// section 2.2). Row i of a sequence sees its context and rows 0..i, which StoreKv has already
// stored; its reader row sees them all. With a window (Longformer, section 3.1; Mistral 7B, section
// 2) it sees the last `window` of these tokens, its own included; blocks that lie wholly before
// them are not touched.
struct AttentionArgs {
  const float* q = nullptr;  // [rows, heads, head_dim], rows q_stride apart
  int64_t q_stride = 0;
  float* out = nullptr;  // like q
  int64_t out_stride = 0;
  int heads = 0;    // a multiple of kv.shape.kv_heads
  float scale = 0;  // 1 / sqrt(head_dim)
  int window = 0;   // tokens; 0: all
  std::span<const SequenceRows> sequences;
  int layer = 0;
  KvMemory kv;

  // The first token that a query of `sequence` sees.
  int first_seen(const SequenceRows& sequence, int query) const {
    const int visible = sequence.visible(query);
    return window > 0 && visible > window ? visible - window : 0;
  }
};

// out[r, i] = silu(gate_up[r, i]) * gate_up[r, dim + i].
struct SwiGluArgs {
  const float* gate_up = nullptr;  // [rows, 2 * dim]
  int64_t gate_up_stride = 0;
  int rows = 0;
  int dim = 0;
  float* out = nullptr;  // [rows, dim]
  int64_t out_stride = 0;
};

// Rows of a batch that carry the same adapter on one linear layer: y += scale * (x a^T) b^T.
struct AdapterRows {
  int row_begin = 0;
  int rows = 0;
  const PackedMatrix* a = nullptr;  // [rank, in]
  const PackedMatrix* b = nullptr;  // [out, rank]
  float scale = 0;
};

// Grouped shrink and expand (Punica section 4; S-LoRA section 5): rows of different adapters and
// ranks in one call. Rows without an adapter belong to no group.
struct AdapterArgs {
  std::span<const AdapterRows> groups;
  const float* x = nullptr;
  int64_t x_stride = 0;
  float* y = nullptr;
  int64_t y_stride = 0;
};

// The table.
struct Kernels {
  std::string_view name;  // "reference", "cpu-avx512", ...

  // Packs the row-wise concatenation of `parts`, which have the same cols, to `dtype` (kF32/kBF16).
  PackedMatrix (*pack)(std::span<const MatrixView> parts, DType dtype, ThreadPool& pool);
  // The same for quantised parts, which have the same cols and dtype.
  PackedMatrix (*pack_quantized)(std::span<const QuantizedView> parts, ThreadPool& pool);
  // out[i, :] = row ids[i] of w, ids within [0, w.rows): embedding lookup in a packed matrix.
  // A quantised w gives scale * q exactly.
  void (*embed)(const PackedMatrix& w, std::span<const int32_t> ids, float* out, ThreadPool& pool);
  void (*matmul)(const MatmulArgs& args, ThreadPool& pool);
  void (*rms_norm)(const RmsNormArgs& args, ThreadPool& pool);
  void (*rope)(const RopeArgs& args, ThreadPool& pool);
  void (*store_kv)(const StoreKvArgs& args, ThreadPool& pool);
  void (*attention)(const AttentionArgs& args, ThreadPool& pool);
  void (*swiglu)(const SwiGluArgs& args, ThreadPool& pool);
  void (*adapters)(const AdapterArgs& args, ThreadPool& pool);
  // x[i] += y[i].
  void (*add)(float* x, const float* y, int64_t count, ThreadPool& pool);
  // Index of the largest of n >= 1 values, the first of equals; NaN never wins.
  int (*argmax)(const float* x, int n);
  // x[i] = exp((x[i] - max x) * scale), in place; returns the sum. For sampling: scale = 1 / T.
  double (*exp_scaled)(float* x, int n, float scale);
};

// Every table this machine can run, the reference first, the fastest last.
std::vector<const Kernels*> AvailableKernels();

// "reference", "cpu" (the fastest here), or a full name such as "cpu-avx2". NotFound lists the
// names that would do.
absl::StatusOr<const Kernels*> FindKernels(std::string_view name);

}  // namespace chorale::kernels
