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

#include "kernels/cpu_bf16.inc"
#include "kernels/cpu_table.inc"

}  // namespace

const CpuLoops& PortableLoops() { return kTable; }

}  // namespace chorale::kernels
