#include "kernels/tensor.h"

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include <sys/mman.h>

#include "base/check.h"

namespace chorale::kernels {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;
// Buffers from here on get whole huge pages: half of one is wasted at worst.
constexpr size_t kHugeBytesMin = kHugePage / 2;

constexpr size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// A mapping of `bytes` (a multiple of kHugePage) that begins on a huge page.
std::byte* MapHuge(size_t bytes) {
  const size_t mapped = bytes + kHugePage;
  void* raw =
      mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, /*fd=*/-1, 0);
  CHECK(raw != MAP_FAILED) << "out of memory: mmap of " << mapped << " bytes";
  auto* begin = static_cast<std::byte*>(raw);
  const size_t head =
      RoundUp(reinterpret_cast<uintptr_t>(begin), kHugePage) - reinterpret_cast<uintptr_t>(begin);
  if (head > 0) munmap(begin, head);
  if (head < kHugePage) munmap(begin + head + bytes, kHugePage - head);
  // A kernel without transparent huge pages gives small ones: slower, not wrong.
  madvise(begin + head, bytes, MADV_HUGEPAGE);
  return begin + head;
}

}  // namespace

const char* NameOf(DType t) {
  switch (t) {
    case DType::kF32:
      return "f32";
    case DType::kF16:
      return "f16";
    case DType::kBF16:
      return "bf16";
    case DType::kI8:
      return "int8";
    case DType::kI4:
      return "int4";
  }
  return "unknown";
}

float BF16ToF32(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

uint16_t F32ToBF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40);  // a quiet NaN
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float F16ToF32(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = (bits >> 10) & 0x1f;
  const uint32_t fraction = bits & 0x3ff;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
  if (exponent == 0) {  // zero or subnormal: fraction * 2^-24, exact in f32
    const float magnitude = static_cast<float>(fraction) * 0x1.0p-24f;
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
}

Buffer::Buffer(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  if (bytes >= kHugeBytesMin) {
    const size_t mapped = RoundUp(bytes, kHugePage);
    data_ = {MapHuge(mapped), Unmap{mapped}};
    return;
  }
  const size_t rounded = RoundUp(bytes, kAlignment);
  auto* p = static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded));
  CHECK(p != nullptr) << "out of memory: " << rounded << " bytes";
  std::memset(p, 0, rounded);
  data_ = {p, Unmap{rounded}};
}

void Buffer::Unmap::operator()(std::byte* p) const {
  if (bytes >= kHugeBytesMin) {
    munmap(p, bytes);
  } else {
    std::free(p);
  }
}

}  // namespace chorale::kernels
