// The implementations of the kernel table, for kernels.cc to choose from.
#pragma once

#include <vector>

#include "kernels/kernels.h"

namespace chorale::kernels {

const Kernels& ReferenceKernels();

// The tables of cpu/cpu.cc that this processor can run, slowest first.
std::vector<const Kernels*> CpuKernels();

}  // namespace chorale::kernels
