// The cpu tables: how each operation is cut into tasks for the pool. The arithmetic of a task is in
// loops.inc, compiled once per instruction set; the fastest set that the processor has is
// chosen at run time.
//
// Small operations run on the calling thread: waking the pool costs a few microseconds.
#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "kernels/cpu/loops.h"
#include "kernels/cpu/quantized.h"
#include "kernels/tables.h"

namespace chorale::kernels {
namespace {

static_assert(kTileTokens == kBlockTokens);

// Elements of an element-wise operation worth a task of their own (a few microseconds).
constexpr int64_t kElementsPerTask = 32 * 1024;
// Queries of one attention task: with kSegmentTokens scores each they stay in the second-level
// cache, and they share every load of a key or value.
constexpr int kQueriesPerTask = 32;
// Rows of one adapter task.
constexpr int kAdapterRowsPerTask = 32;

// Memory that an operation needs while it runs; each thread keeps its own and never shrinks it.
float* Scratch(int64_t floats) {
  thread_local Buffer buffer;
  const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
  if (buffer.bytes() < bytes) buffer = Buffer(bytes + bytes / 2);
  return reinterpret_cast<float*>(buffer.data());
}
// The same for what the calling thread shares with the pool.
float* SharedScratch(int64_t floats) {
  thread_local Buffer buffer;
  const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
  if (buffer.bytes() < bytes) buffer = Buffer(bytes + bytes / 2);
  return reinterpret_cast<float*>(buffer.data());
}

// Runs fn(begin, end) over [0, count), whose elements cost `cost` each, in ranges that are worth
// it.
template <typename Fn>
void ForRanges(ThreadPool& pool, int count, int64_t cost, Fn fn) {
  const int64_t worth = count * cost / kElementsPerTask;
  const int ranges =
      static_cast<int>(std::clamp<int64_t>(std::min<int64_t>(worth, count), 1, 4 * pool.threads()));
  pool.ParallelFor(ranges, [&](int r) {
    fn(static_cast<int>(int64_t{count} * r / ranges),
       static_cast<int>(int64_t{count} * (r + 1) / ranges));
  });
}

int Panels(int features) { return (features + kPanel - 1) / kPanel; }

int PanelWidth(int features, int panel) {
  const int left = std::min(features - panel * kPanel, kPanel);
  return (left + kPanelUnit - 1) / kPanelUnit * kPanelUnit;
}

// Words of a feature, or of a row of activations: pairs for bf16.
int Steps(DType dtype, int cols) { return dtype == DType::kBF16 ? (cols + 1) / 2 : cols; }

// Index of element (feature, col) in a packed matrix, in elements.
int64_t PackedIndex(const PackedMatrix& w, int feature, int col) {
  const int panel = feature / kPanel;
  const int width = PanelWidth(w.rows, panel);
  const int64_t begin = int64_t{panel} * kPanel * Steps(w.dtype, w.cols);
  const int64_t n = feature % kPanel;
  if (w.dtype == DType::kF32) return begin + int64_t{col} * width + n;
  return 2 * (begin + int64_t{col / 2} * width + n) + col % 2;
}

float Widen(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  return dtype == DType::kF16 ? F16ToF32(bits) : std::bit_cast<float>(uint32_t{bits} << 16);
}

// Copies row `row` of `part` into feature `feature` of `w`.
void PackRow(const MatrixView& part, int row, int feature, PackedMatrix& w) {
  const int64_t from = int64_t{row} * part.cols;
  if (w.dtype == DType::kF32) {
    auto* out = reinterpret_cast<float*>(w.data.data());
    for (int c = 0; c < w.cols; ++c) {
      out[PackedIndex(w, feature, c)] = Widen(part.data, part.dtype, from + c);
    }
    return;
  }
  auto* out = reinterpret_cast<uint16_t*>(w.data.data());
  for (int c = 0; c < w.cols; ++c) {
    out[PackedIndex(w, feature, c)] = part.dtype == DType::kBF16
                                          ? static_cast<const uint16_t*>(part.data)[from + c]
                                          : F32ToBF16(Widen(part.data, part.dtype, from + c));
  }
}

PackedMatrix Pack(std::span<const MatrixView> parts, DType dtype, ThreadPool& pool) {
  CHECK(!parts.empty());
  CHECK(dtype == DType::kF32 || dtype == DType::kBF16);
  PackedMatrix w{.cols = parts[0].cols, .dtype = dtype};
  for (const MatrixView& part : parts) {
    CHECK_EQ(part.cols, w.cols);
    w.rows += part.rows;
  }
  const int64_t features = (int64_t{w.rows} + kPanelUnit - 1) / kPanelUnit * kPanelUnit;
  w.data = Buffer(static_cast<size_t>(features * Steps(dtype, w.cols)) * sizeof(float));
  int begin = 0;
  for (const MatrixView& part : parts) {
    ForRanges(pool, part.rows, part.cols, [&](int row, int end) {
      for (; row < end; ++row) PackRow(part, row, begin + row, w);
    });
    begin += part.rows;
  }
  return w;
}

void Embed(const PackedMatrix& w, std::span<const int32_t> ids, float* out, ThreadPool& pool) {
  if (IsQuantized(w.dtype)) return EmbedQuantized(w, ids, out, pool);
  // A row is strewn over its panel, a cache line for each step: dear enough to count eightfold.
  ForRanges(pool, static_cast<int>(ids.size()), 8 * int64_t{w.cols}, [&](int i, int end) {
    for (; i < end; ++i) {
      CHECK_GE(ids[i], 0);
      CHECK_LT(ids[i], w.rows);
      float* row = out + int64_t{i} * w.cols;
      const int64_t stride = PanelWidth(w.rows, ids[i] / kPanel);
      const int64_t first = PackedIndex(w, ids[i], 0);
      if (w.dtype == DType::kF32) {
        const auto* from = reinterpret_cast<const float*>(w.data.data()) + first;
        for (int c = 0; c < w.cols; ++c) row[c] = from[c * stride];
      } else {
        const auto* from = reinterpret_cast<const uint16_t*>(w.data.data()) + first;
        for (int c = 0; c < w.cols; ++c) {
          row[c] = std::bit_cast<float>(uint32_t{from[2 * (c / 2) * stride + c % 2]} << 16);
        }
      }
    }
  });
}

MatmulLoop LoopOver(const PackedMatrix& w) {
  CHECK(!IsQuantized(w.dtype));
  return {.w = reinterpret_cast<const float*>(w.data.data()),
          .features = w.rows,
          .steps = Steps(w.dtype, w.cols),
          .bf16 = w.dtype == DType::kBF16};
}

void Matmul(const CpuLoops& loops, const MatmulArgs& args, ThreadPool& pool) {
  const PackedMatrix& w = args.w;
  CHECK_GE(args.x_stride, w.cols);
  CHECK_GE(args.y_stride, w.rows);
  if (args.m == 0) return;
  if (IsQuantized(w.dtype)) return MatmulQuantized(loops, args, pool);
  MatmulLoop loop = LoopOver(w);
  loop.x = args.x;
  loop.x_stride = args.x_stride;
  loop.m = args.m;
  loop.y = args.y;
  loop.y_stride = args.y_stride;
  loop.bias = args.bias;
  loop.accumulate = args.accumulate;
  if (loop.bf16) {
    // An odd number of cache lines from row to row, so that rows do not compete for one set.
    const int64_t stride = (loop.steps + 15) / 16 / 2 * 32 + 16;
    float* rounded = SharedScratch(args.m * stride);
    ForRanges(pool, args.m, w.cols, [&](int row, int end) {
      for (; row < end; ++row) {
        loops.round_pairs(args.x + row * args.x_stride, w.cols, rounded + row * stride);
      }
    });
    loop.x = rounded;
    loop.x_stride = stride;
  }
  const int panels = Panels(w.rows);
  const int64_t work = int64_t{args.m} * w.cols * kPanel / 64;  // of a panel
  const int ranges = static_cast<int>(
      std::clamp<int64_t>(panels * work / 4096, 1, std::min(panels, 4 * pool.threads())));
  pool.ParallelFor(ranges, [&](int r) {
    MatmulLoop part = loop;
    part.panel_begin = static_cast<int>(int64_t{panels} * r / ranges);
    part.panel_end = static_cast<int>(int64_t{panels} * (r + 1) / ranges);
    loops.matmul(part);
  });
}

void RmsNorm(const CpuLoops& loops, const RmsNormArgs& args, ThreadPool& pool) {
  ForRanges(pool, args.rows, int64_t{args.groups} * args.dim, [&](int row, int end) {
    for (; row < end; ++row) {
      for (int g = 0; g < args.groups; ++g) {
        loops.rms_norm(args.x + row * args.x_stride + int64_t{g} * args.dim, args.weight, args.eps,
                       args.dim, args.out + row * args.out_stride + int64_t{g} * args.dim);
      }
    }
  });
}

void Rope(const CpuLoops& loops, const RopeArgs& args, ThreadPool& pool) {
  const int half = args.head_dim / 2;
  ForRanges(pool, args.rows, int64_t{args.heads} * args.head_dim, [&](int row, int end) {
    for (; row < end; ++row) {
      for (int h = 0; h < args.heads; ++h) {
        loops.rope(args.x + row * args.x_stride + int64_t{h} * args.head_dim,
                   args.cos + int64_t{row} * half, args.sin + int64_t{row} * half, half);
      }
    }
  });
}

// Writes one token's key and value of one head. `words` holds head_dim floats.
void StoreToken(const CpuLoops& loops, const KvShape& shape, const float* k, const float* v,
                int token, std::byte* k_tile, std::byte* v_tile, float* words) {
  const int dim = shape.head_dim;
  const bool bf16 = shape.dtype == DType::kBF16;
  auto* keys = reinterpret_cast<float*>(k_tile) + token;
  if (bf16) {
    loops.round_pairs(k, dim, words);
    for (int i = 0; i < dim / 2; ++i) keys[i * kBlockTokens] = words[i];
    loops.round_pairs(v, dim, reinterpret_cast<float*>(v_tile) + token * (dim / 2));
  } else {
    for (int d = 0; d < dim; ++d) keys[d * kBlockTokens] = k[d];
    std::memcpy(reinterpret_cast<float*>(v_tile) + token * dim, v, sizeof(float) * dim);
  }
}

void StoreKv(const CpuLoops& loops, const StoreKvArgs& args, ThreadPool& pool) {
  const KvShape& shape = args.kv.shape;
  for (const SequenceRows& seq : args.sequences) {
    ForRanges(pool, seq.rows, 4 * int64_t{shape.kv_heads} * shape.head_dim, [&](int i, int end) {
      float* words = Scratch(shape.head_dim);
      for (; i < end; ++i) {
        const int position = seq.context + i;
        std::byte* block = args.kv.data + seq.blocks[position / kBlockTokens] * shape.block_bytes();
        for (int h = 0; h < shape.kv_heads; ++h) {
          const int64_t head = int64_t{h} * shape.head_dim;
          StoreToken(loops, shape, args.k + (seq.row_begin + i) * args.k_stride + head,
                     args.v + (seq.row_begin + i) * args.v_stride + head, position % kBlockTokens,
                     block + shape.k_tile_offset(args.layer, h),
                     block + shape.v_tile_offset(args.layer, h), words);
        }
      }
    });
  }
}

// Some queries of one kv head of one sequence.
struct AttentionTask {
  const SequenceRows* seq;
  int kv_head;
  int query_begin;
  int query_end;
  int segment_begin;  // those that some query sees
  int segment_end;

  int segments() const { return segment_end - segment_begin; }
};

// Query i of a task is head i % group in row i / group, see AttentionLoop.
std::vector<AttentionTask> CutAttention(const AttentionArgs& args) {
  std::vector<AttentionTask> tasks;
  const int group = args.heads / args.kv.shape.kv_heads;
  for (const SequenceRows& seq : args.sequences) {
    // The last rows see the most tokens: they go first, so that no long task is left to the end.
    for (int end = seq.queries() * group; end > 0; end -= kQueriesPerTask) {
      const int begin = std::max(0, end - kQueriesPerTask);
      const int tokens = seq.visible((end - 1) / group);
      for (int h = 0; h < args.kv.shape.kv_heads; ++h) {
        tasks.push_back({.seq = &seq,
                         .kv_head = h,
                         .query_begin = begin,
                         .query_end = end,
                         .segment_begin = args.first_seen(seq, begin / group) / kSegmentTokens,
                         .segment_end = (tokens + kSegmentTokens - 1) / kSegmentTokens});
      }
    }
  }
  return tasks;
}

// Room for the result of one segment of one task: {highest, sum, mixed[head_dim]} per query.
int64_t PartialFloats(int head_dim) { return int64_t{kQueriesPerTask} * (2 + head_dim); }
int64_t LoopFloats(int head_dim) { return int64_t{kQueriesPerTask} * (kSegmentTokens + head_dim); }

struct Partial {
  float* highest;
  float* sum;
  float* mixed;
};
Partial PartialAt(float* memory) {
  return {memory, memory + kQueriesPerTask, memory + 2 * kQueriesPerTask};
}

void AttendSegment(const CpuLoops& loops, const AttentionArgs& args, const AttentionTask& task,
                   int segment, Partial out, float* scratch) {
  const KvShape& shape = args.kv.shape;
  const SequenceRows& seq = *task.seq;
  const int group = args.heads / shape.kv_heads;
  const int first = args.first_seen(seq, task.query_begin / group);
  const int tokens = seq.visible((task.query_end - 1) / group);
  const auto* tiles = reinterpret_cast<const unsigned char*>(args.kv.data);
  loops.attend(
      {.q = args.q + seq.row_begin * args.q_stride + int64_t{task.kv_head} * group * shape.head_dim,
       .q_stride = args.q_stride,
       .rows = seq.rows,
       .reader = (seq.reader_row - seq.row_begin) * args.q_stride,
       .group = group,
       .query_begin = task.query_begin,
       .query_end = task.query_end,
       .head_dim = shape.head_dim,
       .scale = args.scale,
       .context = seq.context,
       .window = args.window,
       .blocks = seq.blocks,
       .k_tiles = tiles + shape.k_tile_offset(args.layer, task.kv_head),
       .v_tiles = tiles + shape.v_tile_offset(args.layer, task.kv_head),
       .block_bytes = shape.block_bytes(),
       .bf16 = shape.dtype == DType::kBF16,
       .token_begin = std::max(segment * kSegmentTokens, first / kTileTokens * kTileTokens),
       .token_end = std::min((segment + 1) * kSegmentTokens, tokens),
       .highest = out.highest,
       .sum = out.sum,
       .mixed = out.mixed,
       .scratch = scratch});
}

void JoinSegment(const CpuLoops& loops, const AttentionTask& task, int head_dim, Partial a,
                 Partial b) {
  for (int i = 0; i < task.query_end - task.query_begin; ++i) {
    loops.join(a.highest + i, a.sum + i, a.mixed + int64_t{i} * head_dim, b.highest[i], b.sum[i],
               b.mixed + int64_t{i} * head_dim, head_dim);
  }
}

void WriteAttention(const CpuLoops& loops, const AttentionArgs& args, const AttentionTask& task,
                    Partial result) {
  const int head_dim = args.kv.shape.head_dim;
  const int group = args.heads / args.kv.shape.kv_heads;
  for (int i = 0; i < task.query_end - task.query_begin; ++i) {
    const int query = task.query_begin + i;
    const int64_t head = int64_t{task.kv_head} * group + query % group;
    loops.scale(result.mixed + int64_t{i} * head_dim, 1 / result.sum[i], head_dim,
                args.out + task.seq->row_of(query / group) * args.out_stride + head * head_dim);
  }
}

// Segments are joined in order, whether one thread takes them all or many take one each: how a
// batch is cut does not show in its results.
void Attention(const CpuLoops& loops, const AttentionArgs& args, ThreadPool& pool) {
  const int head_dim = args.kv.shape.head_dim;
  CHECK_EQ(args.heads % args.kv.shape.kv_heads, 0);
  const std::vector<AttentionTask> tasks = CutAttention(args);
  const int count = static_cast<int>(tasks.size());
  const int64_t partial_floats = PartialFloats(head_dim);
  if (count >= 2 * pool.threads() || pool.threads() == 1) {
    pool.ParallelFor(count, [&](int t) {
      float* memory = Scratch(2 * partial_floats + LoopFloats(head_dim));
      const Partial result = PartialAt(memory);
      const Partial next = PartialAt(memory + partial_floats);
      const int first = tasks[t].segment_begin;
      for (int s = first; s < tasks[t].segment_end; ++s) {
        AttendSegment(loops, args, tasks[t], s, s == first ? result : next,
                      memory + 2 * partial_floats);
        if (s > first) JoinSegment(loops, tasks[t], head_dim, result, next);
      }
      WriteAttention(loops, args, tasks[t], result);
    });
    return;
  }
  // Too few tasks for the pool: each segment becomes one.
  std::vector<std::pair<int, int>> parts;  // task, segment
  for (int t = 0; t < count; ++t) {
    for (int s = tasks[t].segment_begin; s < tasks[t].segment_end; ++s) parts.emplace_back(t, s);
  }
  float* partials = SharedScratch(static_cast<int64_t>(parts.size()) * partial_floats);
  pool.ParallelFor(static_cast<int>(parts.size()), [&](int p) {
    AttendSegment(loops, args, tasks[parts[p].first], parts[p].second,
                  PartialAt(partials + p * partial_floats), Scratch(LoopFloats(head_dim)));
  });
  for (size_t p = 0; p < parts.size();) {
    const AttentionTask& task = tasks[parts[p].first];
    const Partial result = PartialAt(partials + p * partial_floats);
    for (int s = 1; s < task.segments(); ++s) {
      JoinSegment(loops, task, head_dim, result, PartialAt(partials + (p + s) * partial_floats));
    }
    WriteAttention(loops, args, task, result);
    p += task.segments();
  }
}

void SwiGlu(const CpuLoops& loops, const SwiGluArgs& args, ThreadPool& pool) {
  ForRanges(pool, args.rows, 4 * int64_t{args.dim}, [&](int row, int end) {
    for (; row < end; ++row) {
      const float* gate = args.gate_up + row * args.gate_up_stride;
      loops.swiglu(gate, gate + args.dim, args.dim, args.out + row * args.out_stride);
    }
  });
}

// y[rows] (+)= x[rows] * w^T on the calling thread; `words` holds rows * (cols + 1) floats.
void MatmulInline(const CpuLoops& loops, const PackedMatrix& w, const float* x, int64_t x_stride,
                  int rows, float* y, int64_t y_stride, bool accumulate, float* words) {
  MatmulLoop loop = LoopOver(w);
  loop.x = x;
  loop.x_stride = x_stride;
  if (loop.bf16) {
    for (int i = 0; i < rows; ++i) {
      loops.round_pairs(x + i * x_stride, w.cols, words + int64_t{i} * loop.steps);
    }
    loop.x = words;
    loop.x_stride = loop.steps;
  }
  loop.m = rows;
  loop.y = y;
  loop.y_stride = y_stride;
  loop.accumulate = accumulate;
  loop.panel_end = Panels(w.rows);
  loops.matmul(loop);
}

// Rows begin.. of one group: shrink into scratch, scale, expand onto y.
void AdaptRows(const CpuLoops& loops, const AdapterArgs& args, const AdapterRows& group, int begin,
               int rows) {
  const PackedMatrix& a = *group.a;
  const PackedMatrix& b = *group.b;
  const int rank = a.rows;
  const int64_t row = group.row_begin + begin;
  float* shrunk = Scratch(int64_t{rows} * (rank + std::max(a.cols, b.cols) + 1));
  float* words = shrunk + int64_t{rows} * rank;
  MatmulInline(loops, a, args.x + row * args.x_stride, args.x_stride, rows, shrunk, rank,
               /*accumulate=*/false, words);
  loops.scale(shrunk, group.scale, rows * rank, shrunk);
  MatmulInline(loops, b, shrunk, rank, rows, args.y + row * args.y_stride, args.y_stride,
               /*accumulate=*/true, words);
}

void Adapters(const CpuLoops& loops, const AdapterArgs& args, ThreadPool& pool) {
  std::vector<std::pair<const AdapterRows*, int>> tasks;  // group, first row
  for (const AdapterRows& group : args.groups) {
    CHECK_EQ(group.a->rows, group.b->cols);
    for (int row = 0; row < group.rows; row += kAdapterRowsPerTask) tasks.emplace_back(&group, row);
  }
  pool.ParallelFor(static_cast<int>(tasks.size()), [&](int t) {
    const auto& [group, row] = tasks[t];
    AdaptRows(loops, args, *group, row, std::min(group->rows - row, kAdapterRowsPerTask));
  });
}

void Add(const CpuLoops& loops, float* x, const float* y, int64_t count, ThreadPool& pool) {
  const int ranges =
      static_cast<int>(std::clamp<int64_t>(count / (2 * kElementsPerTask), 1, 4 * pool.threads()));
  pool.ParallelFor(ranges, [&](int r) {
    const int64_t begin = count * r / ranges;
    loops.add(x + begin, y + begin, count * (r + 1) / ranges - begin);
  });
}

// The table of one instruction set: the operations above with its loops filled in.
template <const CpuLoops& (*kLoops)()>
const Kernels* TableOf() {
  static const Kernels kTable = {
      .name = kLoops().name,
      .pack = Pack,
      .pack_quantized = PackQuantized,
      .embed = Embed,
      .matmul = [](const MatmulArgs& args, ThreadPool& pool) { Matmul(kLoops(), args, pool); },
      .rms_norm = [](const RmsNormArgs& args, ThreadPool& pool) { RmsNorm(kLoops(), args, pool); },
      .rope = [](const RopeArgs& args, ThreadPool& pool) { Rope(kLoops(), args, pool); },
      .store_kv = [](const StoreKvArgs& args, ThreadPool& pool) { StoreKv(kLoops(), args, pool); },
      .attention = [](const AttentionArgs& args,
                      ThreadPool& pool) { Attention(kLoops(), args, pool); },
      .swiglu = [](const SwiGluArgs& args, ThreadPool& pool) { SwiGlu(kLoops(), args, pool); },
      .adapters = [](const AdapterArgs& args, ThreadPool& pool) { Adapters(kLoops(), args, pool); },
      .add = [](float* x, const float* y, int64_t count,
                ThreadPool& pool) { Add(kLoops(), x, y, count, pool); },
      .argmax = kLoops().argmax,
      .exp_scaled = kLoops().exp_scaled,
  };
  return &kTable;
}

}  // namespace

std::vector<const Kernels*> CpuKernels() {
  std::vector<const Kernels*> tables = {TableOf<PortableLoops>()};
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2) tables.push_back(TableOf<Avx2Loops>());
  const bool avx512 = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bf16") &&
                      __builtin_cpu_supports("avx512vnni");
  if (avx2 && avx512) tables.push_back(TableOf<Avx512Loops>());
#endif
  return tables;
}

}  // namespace chorale::kernels
