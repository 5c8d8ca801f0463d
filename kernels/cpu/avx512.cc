// The inner loops for AVX-512 with the dot products of bf16 and of bytes (Zen 4, Sapphire Rapids
// and later).
#include <immintrin.h>

#include "kernels/cpu/loops.h"

namespace chorale::kernels {
namespace {

constexpr const char* kName = "cpu-avx512";
constexpr int kLanes = 16;
constexpr int kTileRows = 6;
constexpr int kQuantTileRows = 8;
constexpr int kQuantTileVectors = 2;

using F = float __attribute__((vector_size(kLanes * 4)));
using W = uint32_t __attribute__((vector_size(kLanes * 4)));
using H = uint16_t __attribute__((vector_size(kLanes * 2)));

inline F Fma(F a, F b, F c) { return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }

inline F Dot2(W a, W b, F c) { return (F)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b); }

inline H Round(F x) { return (H)_mm512_cvtneps_pbh((__m512)x); }

template <bool kI4>
inline W Dot4(W w, W x, W c) {
  return (W)_mm512_dpbusd_epi32((__m512i)c, (__m512i)w, (__m512i)x);
}

#include "kernels/cpu/table.inc"

}  // namespace

const CpuLoops& Avx512Loops() { return kTable; }

}  // namespace chorale::kernels
