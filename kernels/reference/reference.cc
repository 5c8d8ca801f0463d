// The reference table: every formula written out, every sum in double, every row on its own.
//
// Matrices stay row-major. A sum runs in a fixed order that depends on its length alone, so a row's
// result is the same bit for bit in any batch, chunk or thread count. The other tables are judged
// against this one; it is judged by hand-computed cases.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/check.h"
#include "kernels/tables.h"

namespace chorale::kernels {
namespace {

// Partial sums of a dot product; a fixed number, so that the order of additions is fixed and the
// compiler may still use vectors.
constexpr int kLanes = 8;

double Dot(const float* x, const float* y, int n) {
  double lanes[kLanes] = {};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] += double{x[i + j]} * double{y[i + j]};
  }
  double sum = 0;
  for (; i < n; ++i) sum += double{x[i]} * double{y[i]};
  for (double lane : lanes) sum += lane;
  return sum;
}

float Element(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::kF32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  return dtype == DType::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
}

void SetElement(void* data, DType dtype, int64_t index, float value) {
  if (dtype == DType::kF32) {
    static_cast<float*>(data)[index] = value;
  } else {
    static_cast<uint16_t*>(data)[index] = F32ToBF16(value);
  }
}

// Row `row` of `w`, widened into `out`.
void WidenRow(const PackedMatrix& w, int row, float* out) {
  if (IsQuantized(w.dtype)) {
    DequantizeRow({.codes = reinterpret_cast<const uint8_t*>(w.data.data()),
                   .scales = w.data.data() + w.rows * CodeBytesOfRow(w.dtype, w.cols),
                   .rows = w.rows,
                   .cols = w.cols,
                   .dtype = w.dtype},
                  row, out);
    return;
  }
  const int64_t begin = int64_t{row} * w.cols;
  if (w.dtype == DType::kF32) {
    std::memcpy(out, reinterpret_cast<const float*>(w.data.data()) + begin, sizeof(float) * w.cols);
    return;
  }
  const uint16_t* bits = reinterpret_cast<const uint16_t*>(w.data.data()) + begin;
  for (int i = 0; i < w.cols; ++i) out[i] = std::bit_cast<float>(uint32_t{bits[i]} << 16);
}

// Runs fn(begin, end) over [0, count) in ranges of at least `grain`, a few for each thread.
template <typename Fn>
void ForRanges(ThreadPool& pool, int count, int grain, Fn fn) {
  const int ranges = std::clamp(count / std::max(grain, 1), 1, 4 * pool.threads());
  pool.ParallelFor(ranges, [&](int r) {
    fn(static_cast<int>(int64_t{count} * r / ranges),
       static_cast<int>(int64_t{count} * (r + 1) / ranges));
  });
}

PackedMatrix Pack(std::span<const MatrixView> parts, DType dtype, ThreadPool& pool) {
  CHECK(!parts.empty());
  CHECK(dtype == DType::kF32 || dtype == DType::kBF16);
  PackedMatrix w{.rows = 0, .cols = parts[0].cols, .dtype = dtype};
  for (const MatrixView& part : parts) {
    CHECK_EQ(part.cols, w.cols);
    w.rows += part.rows;
  }
  w.data = Buffer(static_cast<size_t>(int64_t{w.rows} * w.cols * BytesOf(dtype)));
  int64_t out_row = 0;
  for (const MatrixView& part : parts) {
    pool.ParallelFor(part.rows, [&](int row) {
      for (int64_t col = 0; col < w.cols; ++col) {
        SetElement(w.data.data(), dtype, (out_row + row) * w.cols + col,
                   Element(part.data, part.dtype, int64_t{row} * w.cols + col));
      }
    });
    out_row += part.rows;
  }
  return w;
}

// All codes, then all scales.
PackedMatrix PackQuantized(std::span<const QuantizedView> parts, ThreadPool&) {
  CHECK(!parts.empty());
  PackedMatrix w{.rows = 0, .cols = parts[0].cols, .dtype = parts[0].dtype};
  CHECK(IsQuantized(w.dtype));
  for (const QuantizedView& part : parts) {
    CHECK_EQ(part.cols, w.cols);
    CHECK(part.dtype == w.dtype);
    w.rows += part.rows;
  }
  const int64_t code_bytes = CodeBytesOfRow(w.dtype, w.cols);
  const int64_t scale_bytes = QuantGroups(w.cols) * int64_t{sizeof(uint16_t)};
  w.data = Buffer(static_cast<size_t>(w.rows * (code_bytes + scale_bytes)));
  std::byte* scales = w.data.data() + w.rows * code_bytes;
  int64_t row = 0;
  for (const QuantizedView& part : parts) {
    std::memcpy(w.data.data() + row * code_bytes, part.codes, part.rows * code_bytes);
    std::memcpy(scales + row * scale_bytes, part.scales, part.rows * scale_bytes);
    row += part.rows;
  }
  return w;
}

void Embed(const PackedMatrix& w, std::span<const int32_t> ids, float* out, ThreadPool&) {
  for (size_t i = 0; i < ids.size(); ++i) {
    CHECK_GE(ids[i], 0);
    CHECK_LT(ids[i], w.rows);
    WidenRow(w, ids[i], out + i * w.cols);
  }
}

void Matmul(const MatmulArgs& args, ThreadPool& pool) {
  const PackedMatrix& w = args.w;
  CHECK_GE(args.x_stride, w.cols);
  CHECK_GE(args.y_stride, w.rows);
  ForRanges(pool, w.rows, /*grain=*/8, [&](int begin, int end) {
    std::vector<float> weights(w.cols);
    for (int n = begin; n < end; ++n) {
      WidenRow(w, n, weights.data());
      for (int m = 0; m < args.m; ++m) {
        double sum = Dot(args.x + m * args.x_stride, weights.data(), w.cols);
        if (args.bias != nullptr) sum += args.bias[n];
        float& y = args.y[m * args.y_stride + n];
        y = static_cast<float>(args.accumulate ? y + sum : sum);
      }
    }
  });
}

void RmsNorm(const RmsNormArgs& args, ThreadPool& pool) {
  ForRanges(pool, args.rows, /*grain=*/1, [&](int begin, int end) {
    for (int r = begin; r < end; ++r) {
      for (int g = 0; g < args.groups; ++g) {
        const float* x = args.x + r * args.x_stride + int64_t{g} * args.dim;
        float* out = args.out + r * args.out_stride + int64_t{g} * args.dim;
        const double scale = 1 / std::sqrt(Dot(x, x, args.dim) / args.dim + args.eps);
        for (int i = 0; i < args.dim; ++i) {
          out[i] = static_cast<float>(x[i] * scale * args.weight[i]);
        }
      }
    }
  });
}

void Rope(const RopeArgs& args, ThreadPool&) {
  const int half = args.head_dim / 2;
  for (int r = 0; r < args.rows; ++r) {
    const float* cos = args.cos + int64_t{r} * half;
    const float* sin = args.sin + int64_t{r} * half;
    for (int h = 0; h < args.heads; ++h) {
      float* x = args.x + r * args.x_stride + int64_t{h} * args.head_dim;
      for (int d = 0; d < half; ++d) {
        const double a = x[d];
        const double b = x[d + half];
        x[d] = static_cast<float>(a * cos[d] - b * sin[d]);
        x[d + half] = static_cast<float>(b * cos[d] + a * sin[d]);
      }
    }
  }
}

// Where token `position` of a sequence lies: its block's memory and its place inside.
std::byte* BlockOf(const KvMemory& kv, const SequenceRows& seq, int position) {
  return kv.data + seq.blocks[position / kBlockTokens] * kv.shape.block_bytes();
}

void StoreKv(const StoreKvArgs& args, ThreadPool&) {
  const KvShape& shape = args.kv.shape;
  for (const SequenceRows& seq : args.sequences) {
    for (int i = 0; i < seq.rows; ++i) {
      const int position = seq.context + i;
      const int token = position % kBlockTokens;
      std::byte* block = BlockOf(args.kv, seq, position);
      for (int h = 0; h < shape.kv_heads; ++h) {
        const int64_t head = int64_t{h} * shape.head_dim;
        const float* k = args.k + (seq.row_begin + i) * args.k_stride + head;
        const float* v = args.v + (seq.row_begin + i) * args.v_stride + head;
        for (int d = 0; d < shape.head_dim; ++d) {
          SetElement(block + shape.k_tile_offset(args.layer, h), shape.dtype,
                     shape.k_index(token, d), k[d]);
          SetElement(block + shape.v_tile_offset(args.layer, h), shape.dtype,
                     shape.v_index(token, d), v[d]);
        }
      }
    }
  }
}

// One query of one head over tokens [0, tokens) of its sequence.
void Attend(const AttentionArgs& args, const SequenceRows& seq, int query, int head) {
  const int begin = args.first_seen(seq, query);
  const int end = seq.visible(query);
  const int row = seq.row_of(query);
  const KvShape& shape = args.kv.shape;
  const int kv_head = head / (args.heads / shape.kv_heads);
  const int64_t at = int64_t{head} * shape.head_dim;
  const float* q = args.q + row * args.q_stride + at;
  float* out = args.out + row * args.out_stride + at;
  std::vector<double> p(end - begin);
  double highest = -std::numeric_limits<double>::infinity();
  for (int t = begin; t < end; ++t) {
    const std::byte* tile = BlockOf(args.kv, seq, t) + shape.k_tile_offset(args.layer, kv_head);
    double dot = 0;
    for (int d = 0; d < shape.head_dim; ++d) {
      dot += double{q[d]} * Element(tile, shape.dtype, shape.k_index(t % kBlockTokens, d));
    }
    p[t - begin] = dot * args.scale;
    highest = std::max(highest, p[t - begin]);
  }
  double sum = 0;
  for (double& value : p) {
    value = std::exp(value - highest);
    sum += value;
  }
  std::vector<double> mixed(shape.head_dim);
  for (int t = begin; t < end; ++t) {
    const std::byte* tile = BlockOf(args.kv, seq, t) + shape.v_tile_offset(args.layer, kv_head);
    for (int d = 0; d < shape.head_dim; ++d) {
      mixed[d] += p[t - begin] * Element(tile, shape.dtype, shape.v_index(t % kBlockTokens, d));
    }
  }
  for (int d = 0; d < shape.head_dim; ++d) out[d] = static_cast<float>(mixed[d] / sum);
}

void Attention(const AttentionArgs& args, ThreadPool& pool) {
  CHECK_EQ(args.heads % args.kv.shape.kv_heads, 0);
  for (const SequenceRows& seq : args.sequences) {
    pool.ParallelFor(seq.queries() * args.heads,
                     [&](int task) { Attend(args, seq, task / args.heads, task % args.heads); });
  }
}

void SwiGlu(const SwiGluArgs& args, ThreadPool& pool) {
  ForRanges(pool, args.rows, /*grain=*/1, [&](int begin, int end) {
    for (int r = begin; r < end; ++r) {
      const float* gate = args.gate_up + r * args.gate_up_stride;
      const float* up = gate + args.dim;
      float* out = args.out + r * args.out_stride;
      for (int i = 0; i < args.dim; ++i) {
        const double g = gate[i];
        out[i] = static_cast<float>(g / (1 + std::exp(-g)) * up[i]);
      }
    }
  });
}

void Adapters(const AdapterArgs& args, ThreadPool&) {
  for (const AdapterRows& group : args.groups) {
    const PackedMatrix& a = *group.a;
    const PackedMatrix& b = *group.b;
    CHECK_EQ(a.rows, b.cols);
    std::vector<float> weights(std::max(a.cols, b.cols));
    std::vector<double> shrunk(int64_t{group.rows} * a.rows);
    for (int n = 0; n < a.rows; ++n) {
      WidenRow(a, n, weights.data());
      for (int r = 0; r < group.rows; ++r) {
        shrunk[int64_t{r} * a.rows + n] =
            Dot(args.x + (group.row_begin + r) * args.x_stride, weights.data(), a.cols);
      }
    }
    for (int n = 0; n < b.rows; ++n) {
      WidenRow(b, n, weights.data());
      for (int r = 0; r < group.rows; ++r) {
        double sum = 0;
        for (int i = 0; i < b.cols; ++i) sum += shrunk[int64_t{r} * a.rows + i] * weights[i];
        float& y = args.y[(group.row_begin + r) * args.y_stride + n];
        y = static_cast<float>(y + group.scale * sum);
      }
    }
  }
}

void Add(float* x, const float* y, int64_t count, ThreadPool&) {
  for (int64_t i = 0; i < count; ++i) x[i] += y[i];
}

int ArgMax(const float* x, int n) {
  int best = 0;
  for (int i = 1; i < n; ++i) {
    if (x[i] > x[best] || (std::isnan(x[best]) && !std::isnan(x[i]))) best = i;
  }
  return best;
}

double ExpScaled(float* x, int n, float scale) {
  const double highest = *std::max_element(x, x + n);
  double sum = 0;
  for (int i = 0; i < n; ++i) {
    const double e = std::exp((x[i] - highest) * scale);
    x[i] = static_cast<float>(e);
    sum += e;
  }
  return sum;
}

}  // namespace

const Kernels& ReferenceKernels() {
  static constexpr Kernels kTable = {
      .name = "reference",
      .pack = Pack,
      .pack_quantized = PackQuantized,
      .embed = Embed,
      .matmul = Matmul,
      .rms_norm = RmsNorm,
      .rope = Rope,
      .store_kv = StoreKv,
      .attention = Attention,
      .swiglu = SwiGlu,
      .adapters = Adapters,
      .add = Add,
      .argmax = ArgMax,
      .exp_scaled = ExpScaled,
  };
  return kTable;
}

}  // namespace chorale::kernels
