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

#include "kernels/cpu_bf16.inc"
#include "kernels/cpu_table.inc"

}  // namespace

const CpuLoops& Avx2Loops() { return kTable; }

}  // namespace chorale::kernels
