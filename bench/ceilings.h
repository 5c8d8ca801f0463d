// What this machine can do at best, measured: the figures that a benchmark prints beside its own.
//
// Each function runs for a fraction of a second on `threads` threads of its own and returns the
// best of several tries, which is the least disturbed one on a shared machine.
#pragma once

namespace chorale::bench {

// Bytes read from memory per nanosecond: a buffer on huge pages, far larger than the caches.
double MeasureDramReadGBps(int threads);

// Fused multiply-adds on registers, two operations each. Bf16 is 0 where the processor has no bf16
// dot product.
double MeasureF32Gflops(int threads);
double MeasureBf16Gflops(int threads);

}  // namespace chorale::bench
