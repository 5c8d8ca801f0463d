// The inner loops for AVX2 with FMA.
#include <immintrin.h>

#include "kernels/cpu/loops.h"

namespace chorale::kernels {
namespace {

constexpr const char* kName = "cpu-avx2";
constexpr int kLanes = 8;
constexpr int kTileRows = 4;
constexpr int kQuantTileRows = 2;
constexpr int kQuantTileVectors = 2;

using F = float __attribute__((vector_size(kLanes * 4)));
using W = uint32_t __attribute__((vector_size(kLanes * 4)));
using H = uint16_t __attribute__((vector_size(kLanes * 2)));

inline F Fma(F a, F b, F c) { return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }

// vpmaddubsw adds two products in 16 bits: enough for codes of 4 bits (2 * 15 * 127), not for 8.
template <bool kI4>
inline W Dot4(W w, W x, W c) {
  const __m256i codes = (__m256i)w, values = (__m256i)x;
  if constexpr (kI4) {
    const __m256i pairs = _mm256_maddubs_epi16(codes, values);
    return c + (W)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  } else {
    const __m256i even = _mm256_and_si256(codes, _mm256_set1_epi16(0xff));
    const __m256i odd = _mm256_srli_epi16(codes, 8);
    const __m256i x_even = _mm256_srai_epi16(_mm256_slli_epi16(values, 8), 8);
    const __m256i x_odd = _mm256_srai_epi16(values, 8);
    return c + (W)_mm256_madd_epi16(even, x_even) + (W)_mm256_madd_epi16(odd, x_odd);
  }
}

#include "kernels/cpu/bf16.inc"
#include "kernels/cpu/table.inc"

}  // namespace

const CpuLoops& Avx2Loops() { return kTable; }

}  // namespace chorale::kernels
