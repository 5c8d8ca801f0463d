// The inner loops in vectors of 16 bytes, which every 64-bit processor has.
#include "kernels/cpu_loops.h"

namespace chorale::kernels {
namespace {

constexpr const char* kName = "cpu-portable";
constexpr int kLanes = 4;
constexpr int kTileRows = 2;

using F = float __attribute__((vector_size(kLanes * 4)));
using W = uint32_t __attribute__((vector_size(kLanes * 4)));
using H = uint16_t __attribute__((vector_size(kLanes * 2)));

inline F Fma(F a, F b, F c) { return a * b + c; }

inline F Dot2(W a, W b, F c) {
  c = Fma((F)(a << 16), (F)(b << 16), c);
  return Fma((F)(a & 0xffff0000u), (F)(b & 0xffff0000u), c);
}

inline H Round(F x) {
  const W bits = (W)x;
  const W rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const W nan = (bits >> 16) | 0x40u;
  return __builtin_convertvector(x == x ? rounded : nan, H);
}

#include "kernels/cpu_table.inc"

}  // namespace

const CpuLoops& PortableLoops() { return kTable; }

}  // namespace chorale::kernels
