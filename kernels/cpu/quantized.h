// Quantised matrices in the cpu tables: how their operations are cut into tasks. See loops.h
// for the layout, cpu/cpu.cc for the rest of the tables.
#pragma once

#include <span>

#include "kernels/cpu/loops.h"
#include "kernels/kernels.h"

namespace chorale::kernels {

PackedMatrix PackQuantized(std::span<const QuantizedView> parts, ThreadPool& pool);
void EmbedQuantized(const PackedMatrix& w, std::span<const int32_t> ids, float* out,
                    ThreadPool& pool);
void MatmulQuantized(const CpuLoops& loops, const MatmulArgs& args, ThreadPool& pool);

}  // namespace chorale::kernels
