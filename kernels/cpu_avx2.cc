// The inner loops for AVX2 with FMA.
#include <immintrin.h>

#include "kernels/cpu_loops.h"

namespace chorale::kernels {
namespace {

constexpr const char* kName = "cpu-avx2";
constexpr int kLanes = 8;
constexpr int kTileRows = 4;

using F = float __attribute__((vector_size(kLanes * 4)));
using W = uint32_t __attribute__((vector_size(kLanes * 4)));
using H = uint16_t __attribute__((vector_size(kLanes * 2)));

inline F Fma(F a, F b, F c) { return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }

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

const CpuLoops& Avx2Loops() { return kTable; }

}  // namespace chorale::kernels
