// The inner loops in vectors of 16 bytes, which every 64-bit processor has.
#include "kernels/cpu/loops.h"

namespace chorale::kernels {
namespace {

constexpr const char* kName = "cpu-portable";
constexpr int kLanes = 4;
constexpr int kTileRows = 2;
constexpr int kQuantTileRows = 2;
constexpr int kQuantTileVectors = 2;

using F = float __attribute__((vector_size(kLanes * 4)));
using W = uint32_t __attribute__((vector_size(kLanes * 4)));
using H = uint16_t __attribute__((vector_size(kLanes * 2)));
using H8 = uint16_t __attribute__((vector_size(kLanes * 4)));

inline F Fma(F a, F b, F c) { return a * b + c; }

// Products of a code below 256 and one of magnitude at most 127 fit 16 bits.
template <bool kI4>
inline W Dot4(W w, W x, W c) {
  using S = int16_t __attribute__((vector_size(kLanes * 4)));
  using I32 = int32_t __attribute__((vector_size(kLanes * 4)));
  const S even = ((S)w & 0xff) * ((S)((H8)x << 8) >> 8);
  const S odd = (S)((H8)w >> 8) * ((S)x >> 8);
  return c + (W)((I32)((W)even << 16) >> 16) + (W)((I32)even >> 16) +
         (W)((I32)((W)odd << 16) >> 16) + (W)((I32)odd >> 16);
}

#include "kernels/cpu/bf16.inc"
#include "kernels/cpu/table.inc"

}  // namespace

const CpuLoops& PortableLoops() { return kTable; }

}  // namespace chorale::kernels
