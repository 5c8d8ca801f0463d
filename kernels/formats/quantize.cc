// Compiled with -ffp-contract=off: a fused multiply-add would change bytes from machine to machine.
#include "kernels/formats/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>

#include "base/check.h"

namespace chorale::kernels {
namespace {

constexpr float kMagnitudeMin = 0x1.0p-100f;
constexpr float kMagnitudeEnd = 0x1.0p120f;
constexpr int kRowsPerTask = 16;

// Four lanes, which every 64-bit processor computes at once, each as IEEE says.
constexpr int kLanes = 4;
constexpr int kVectors = kQuantGroup / kLanes;
using V = float __attribute__((vector_size(kLanes * sizeof(float))));

struct Group {
  V w[kVectors];
};

// Codes of a group without their offset, and what they lose.
struct Fit {
  V q[kVectors];
  float scale;
  float error;  // sum of squares
};

V Splat(float x) { return V{x, x, x, x}; }
float Sum(V v) { return (v[0] + v[1]) + (v[2] + v[3]); }

// The codes of `group` nearest to multiples of `scale` != 0, which becomes a bf16 value first.
Fit FitTo(const Group& group, float scale, float q_min, float q_max) {
  const V magic = Splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  Fit fit;
  fit.scale = BF16ToF32(F32ToBF16(scale));
  const V step = Splat(fit.scale), inverse = Splat(1 / fit.scale);
  const V low = Splat(q_min), high = Splat(q_max);
  V error = {};
  for (int i = 0; i < kVectors; ++i) {
    V q = (group.w[i] * inverse + magic) - magic;
    q = q < low ? low : q;
    q = q > high ? high : q;
    const V lost = group.w[i] - q * step;
    error += lost * lost;
    fit.q[i] = q;
  }
  fit.error = Sum(error);
  return fit;
}

// The scale of the least squared error for the codes of `fit`; they are not all zero, for the
// group's largest value is not.
float BestScale(const Group& group, const Fit& fit) {
  V products = {}, squares = {};
  for (int i = 0; i < kVectors; ++i) {
    products += group.w[i] * fit.q[i];
    squares += fit.q[i] * fit.q[i];
  }
  return Sum(products) / Sum(squares);
}

void Improve(Fit& best, const Fit& other) {
  if (other.error < best.error) best = other;
}

// The group's value of the largest magnitude goes to this code of 4 bits, or near it: beyond the
// range it is cut off, which may pay for finer steps. The first promises the error in quantize.h.
constexpr float kTargets4[] = {7.0f, -7.0f,  -7.5f, -8.0f, -8.5f, -9.0f,
                               7.5f, -6.75f, 8.0f,  -9.5f, 6.5f};
// At 8 bits only the rounding of the scale matters: its neighbours.
constexpr float kTargets8[] = {127.0f, 126.5f, 127.5f};

// `largest`, in [1, 2) but for its sign, is the group's value of the largest magnitude.
Fit BestFit(const Group& group, float largest, DType dtype) {
  if (dtype == DType::kI8) {
    Fit best = FitTo(group, std::abs(largest) / kTargets8[0], -127, 127);
    for (size_t i = 1; i < std::size(kTargets8); ++i) {
      Improve(best, FitTo(group, std::abs(largest) / kTargets8[i], -127, 127));
    }
    return best;
  }
  Fit best = FitTo(group, largest / kTargets4[0], -8, 7);
  for (size_t i = 1; i < std::size(kTargets4); ++i) {
    Improve(best, FitTo(group, largest / kTargets4[i], -8, 7));
  }
  for (int i = 0; i < 2; ++i) Improve(best, FitTo(group, BestScale(group, best), -8, 7));
  return best;
}

float Element(const MatrixView& w, int64_t index) {
  if (w.dtype == DType::kF32) return static_cast<const float*>(w.data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(w.data)[index];
  return w.dtype == DType::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
}

// The value of the largest magnitude, the first of equals; NaN if there is one.
float Largest(const float* w) {
  float largest = 0;
  for (int i = 0; i < kQuantGroup; ++i) {
    if (std::isnan(w[i])) return w[i];
    if (std::abs(w[i]) > std::abs(largest)) largest = w[i];
  }
  return largest;
}

// q[kQuantGroup] and the scale of a group; the group may be padded with zeros.
uint16_t QuantizeGroup(const float* w, DType dtype, int* q) {
  std::fill(q, q + kQuantGroup, 0);
  const float largest = Largest(w);
  if (!(std::abs(largest) < kMagnitudeEnd)) {
    return F32ToBF16(std::numeric_limits<float>::quiet_NaN());
  }
  if (std::abs(largest) < kMagnitudeMin) return 0;
  // By a power of two, so that no square overflows or vanishes; the scale is exact to shift back.
  const uint32_t exponent = (std::bit_cast<uint32_t>(largest) >> 23) & 0xff;
  const float shift = std::bit_cast<float>((254 - exponent) << 23);
  const float shift_back = std::bit_cast<float>(exponent << 23);
  Group group;
  for (int i = 0; i < kQuantGroup; ++i) group.w[i / kLanes][i % kLanes] = w[i] * shift;
  const Fit fit = BestFit(group, largest * shift, dtype);
  for (int i = 0; i < kQuantGroup; ++i) q[i] = static_cast<int>(fit.q[i / kLanes][i % kLanes]);
  return F32ToBF16(fit.scale * shift_back);
}

void QuantizeRow(const MatrixView& w, int row, QuantizedMatrix& out) {
  const int groups = QuantGroups(w.cols);
  uint8_t* codes = out.codes.data() + row * CodeBytesOfRow(out.dtype, w.cols);
  uint16_t* scales = out.scales.data() + int64_t{row} * groups;
  for (int g = 0; g < groups; ++g) {
    const int begin = g * kQuantGroup;
    const int cols = std::min(w.cols - begin, kQuantGroup);
    float values[kQuantGroup] = {};
    for (int c = 0; c < cols; ++c) values[c] = Element(w, int64_t{row} * w.cols + begin + c);
    int q[kQuantGroup];
    scales[g] = QuantizeGroup(values, out.dtype, q);
    if (out.dtype == DType::kI8) {
      for (int value : q) *codes++ = static_cast<uint8_t>(value + 128);
    } else {
      for (int i = 0; i < kQuantGroup; i += 2) {
        *codes++ = static_cast<uint8_t>((q[i] + 8) | (q[i + 1] + 8) << 4);
      }
    }
  }
}

}  // namespace

QuantizedMatrix Quantize(const MatrixView& w, DType dtype, ThreadPool& pool) {
  CHECK(IsQuantized(dtype));
  CHECK(!IsQuantized(w.dtype));
  QuantizedMatrix out = {.rows = w.rows, .cols = w.cols, .dtype = dtype};
  out.codes.resize(w.rows * CodeBytesOfRow(dtype, w.cols));
  out.scales.resize(int64_t{w.rows} * QuantGroups(w.cols));
  pool.ParallelFor((w.rows + kRowsPerTask - 1) / kRowsPerTask, [&](int task) {
    const int end = std::min(w.rows, (task + 1) * kRowsPerTask);
    for (int row = task * kRowsPerTask; row < end; ++row) QuantizeRow(w, row, out);
  });
  return out;
}

void DequantizeRow(const QuantizedView& w, int row, float* out) {
  const uint8_t* codes = w.codes + row * CodeBytesOfRow(w.dtype, w.cols);
  const auto* scales = static_cast<const uint8_t*>(w.scales) +
                       int64_t{row} * QuantGroups(w.cols) * int64_t{sizeof(uint16_t)};
  for (int c = 0; c < w.cols; ++c) {
    uint16_t bits;
    std::memcpy(&bits, scales + c / kQuantGroup * sizeof(bits), sizeof(bits));
    const int q = w.dtype == DType::kI8 ? codes[c] - 128 : (codes[c / 2] >> c % 2 * 4 & 15) - 8;
    out[c] = BF16ToF32(bits) * static_cast<float>(q);
  }
}

}  // namespace chorale::kernels
