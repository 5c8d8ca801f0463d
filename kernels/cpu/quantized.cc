#include "kernels/cpu/quantized.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace chorale::kernels {
namespace {

static_assert(kGroupColumns == kQuantGroup);

constexpr int kGroupWords = kGroupColumns / 4;
// Activations to round that are worth a task of their own (a few microseconds).
constexpr int kElementsPerTask = 32 * 1024;

int GroupBytes(DType dtype) { return dtype == DType::kI4 ? kInt4GroupBytes : kInt8GroupBytes; }

int Strips(int features) { return (features + kStrip - 1) / kStrip; }

// The half-bytes of two bytes, one to a byte.
uint32_t Spread(uint32_t two_bytes) {
  const uint32_t apart = (two_bytes | two_bytes << 8) & 0x00ff00ff;
  return (apart | apart << 4) & 0x0f0f0f0f;
}

// Copies row `row` of `part` into feature `feature` of `w`.
void PackRow(const QuantizedView& part, int row, int feature, PackedMatrix& w) {
  const int groups = QuantGroups(w.cols);
  const bool int4 = w.dtype == DType::kI4;
  const int n = feature % kStrip;
  const uint8_t* codes = part.codes + row * CodeBytesOfRow(w.dtype, w.cols);
  const auto* scales =
      static_cast<const uint8_t*>(part.scales) + int64_t{row} * groups * int64_t{sizeof(uint16_t)};
  std::byte* out = w.data.data() + int64_t{feature / kStrip} * groups * GroupBytes(w.dtype);
  for (int g = 0; g < groups; ++g) {
    std::memcpy(out + 2 * n, scales, 2);
    scales += 2;
    for (int i = 0; i < (int4 ? kGroupWords / 2 : kGroupWords); ++i) {
      uint32_t word;
      std::memcpy(&word, codes, sizeof(word));
      codes += sizeof(word);
      if (int4) word = Spread(word & 0xffff) | Spread(word >> 16) << 4;
      std::memcpy(out + 2 * kStrip + 4 * (i * kStrip + n), &word, sizeof(word));
    }
    out += GroupBytes(w.dtype);
  }
}

// Row `row` of `w`, widened into `out`.
void WidenRow(const PackedMatrix& w, int row, float* out) {
  const bool int4 = w.dtype == DType::kI4;
  const int n = row % kStrip;
  const std::byte* group =
      w.data.data() + int64_t{row / kStrip} * QuantGroups(w.cols) * GroupBytes(w.dtype);
  for (int begin = 0; begin < w.cols; begin += kGroupColumns) {
    uint16_t bits;
    std::memcpy(&bits, group + 2 * n, sizeof(bits));
    const float scale = BF16ToF32(bits);
    const auto* codes = reinterpret_cast<const uint8_t*>(group) + 2 * kStrip + 4 * n;
    for (int c = 0; c < std::min(w.cols - begin, kGroupColumns); ++c) {
      const int step = c / 4;
      const int q = int4 ? (codes[step / 2 * kStrip * 4 + c % 4] >> step % 2 * 4 & 15) - 8
                         : codes[step * kStrip * 4 + c % 4] - 128;
      out[begin + c] = scale * static_cast<float>(q);
    }
    group += GroupBytes(w.dtype);
  }
}

// The activations of one matmul in blocks; each calling thread keeps its own and never shrinks it.
unsigned char* RoundedRows(int64_t bytes) {
  thread_local Buffer buffer;
  const auto wanted = static_cast<size_t>(bytes);
  if (buffer.bytes() < wanted) buffer = Buffer(wanted + wanted / 2);
  return reinterpret_cast<unsigned char*>(buffer.data());
}

}  // namespace

PackedMatrix PackQuantized(std::span<const QuantizedView> parts, ThreadPool& pool) {
  CHECK(!parts.empty());
  PackedMatrix w{.cols = parts[0].cols, .dtype = parts[0].dtype};
  CHECK(IsQuantized(w.dtype));
  for (const QuantizedView& part : parts) {
    CHECK_EQ(part.cols, w.cols);
    CHECK(part.dtype == w.dtype);
    w.rows += part.rows;
  }
  const int64_t strip_bytes = int64_t{QuantGroups(w.cols)} * GroupBytes(w.dtype);
  w.data = Buffer(static_cast<size_t>(Strips(w.rows) * strip_bytes));
  int begin = 0;
  for (const QuantizedView& part : parts) {
    pool.ParallelFor(Strips(part.rows), [&](int task) {
      const int end = std::min(part.rows, (task + 1) * kStrip);
      for (int row = task * kStrip; row < end; ++row) PackRow(part, row, begin + row, w);
    });
    begin += part.rows;
  }
  return w;
}

void EmbedQuantized(const PackedMatrix& w, std::span<const int32_t> ids, float* out,
                    ThreadPool& pool) {
  constexpr int kIdsPerTask = 16;
  const int count = static_cast<int>(ids.size());
  pool.ParallelFor((count + kIdsPerTask - 1) / kIdsPerTask, [&](int task) {
    const int end = std::min(count, (task + 1) * kIdsPerTask);
    for (int i = task * kIdsPerTask; i < end; ++i) {
      CHECK_GE(ids[i], 0);
      CHECK_LT(ids[i], w.rows);
      WidenRow(w, ids[i], out + int64_t{i} * w.cols);
    }
  });
}

void MatmulQuantized(const CpuLoops& loops, const MatmulArgs& args, ThreadPool& pool) {
  const PackedMatrix& w = args.w;
  const int groups = QuantGroups(w.cols);
  const bool int4 = w.dtype == DType::kI4;
  const int64_t row_bytes = int64_t{groups} * kRoundedGroupBytes;
  unsigned char* x = RoundedRows(args.m * row_bytes);
  const int task_rows = std::max(1, kElementsPerTask / kBlockRows / w.cols) * kBlockRows;
  pool.ParallelFor((args.m + task_rows - 1) / task_rows, [&](int task) {
    const int end = std::min(args.m, (task + 1) * task_rows);
    for (int row = task * task_rows; row < end; row += kBlockRows) {
      loops.round_groups(args.x + row * args.x_stride, args.x_stride,
                         std::min(end - row, kBlockRows), w.cols, int4, x + row * row_bytes);
    }
  });
  const QuantizedLoop loop = {.w = reinterpret_cast<const unsigned char*>(w.data.data()),
                              .features = w.rows,
                              .groups = groups,
                              .int4 = int4,
                              .x = x,
                              .m = args.m,
                              .y = args.y,
                              .y_stride = args.y_stride,
                              .bias = args.bias,
                              .accumulate = args.accumulate};
  const int strips = Strips(w.rows);
  const int64_t work = int64_t{args.m} * w.cols * kStrip / 128;  // of a strip
  const int ranges = static_cast<int>(
      std::clamp<int64_t>(strips * work / 4096, 1, std::min(strips, 4 * pool.threads())));
  pool.ParallelFor(ranges, [&](int r) {
    QuantizedLoop part = loop;
    part.strip_begin = static_cast<int>(int64_t{strips} * r / ranges);
    part.strip_end = static_cast<int>(int64_t{strips} * (r + 1) / ranges);
    loops.quantized_matmul(part);
  });
}

}  // namespace chorale::kernels
