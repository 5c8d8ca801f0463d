#include "bench/ceilings.h"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include <sched.h>

#include "kernels/tensor.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace chorale::bench {
namespace {

constexpr int kTries = 25;
constexpr int64_t kDramBytes = int64_t{256} << 20;
constexpr int64_t kFlopRounds = 100'000;
// Independent chains of multiply-adds, enough to hide their latency.
constexpr int kChains = 16;

// Ties the calling thread to the `index`-th processor it may use: a scheduler needs longer than one
// of these measurements to spread new threads over a machine that is not idle.
void PinTo(int index) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || index-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof(one), &one);
    return;
  }
}

// Runs fn(thread) on all threads at once; returns the best time of kTries, in nanoseconds.
template <typename Fn>
double BestNanoseconds(int threads, Fn fn) {
  using Clock = std::chrono::steady_clock;
  double best = 1e30;
  for (int attempt = 0; attempt < kTries; ++attempt) {
    std::vector<Clock::time_point> begins(threads), ends(threads);
    std::barrier start(threads);
    std::vector<std::thread> workers;
    for (int t = 0; t < threads; ++t) {
      workers.emplace_back([&, t] {
        PinTo(t);
        start.arrive_and_wait();
        begins[t] = Clock::now();
        fn(t);
        ends[t] = Clock::now();
      });
    }
    for (std::thread& worker : workers) worker.join();
    const auto elapsed = *std::max_element(ends.begin(), ends.end()) -
                         *std::min_element(begins.begin(), begins.end());
    best = std::min(best, std::chrono::duration<double, std::nano>(elapsed).count());
  }
  return best;
}

// Keeps a value that nobody reads from being optimised away.
template <typename T>
void Keep(T& value) {
  asm volatile("" : "+m"(value) : : "memory");
}

using Vector = uint64_t __attribute__((vector_size(64)));

void ReadAll(const std::byte* data, int64_t bytes) {
  const auto* p = reinterpret_cast<const Vector*>(data);
  Vector sums[4] = {};
  for (int64_t i = 0; i + 4 <= bytes / 64; i += 4) {
    for (int j = 0; j < 4; ++j) sums[j] ^= p[i + j];
  }
  for (Vector& sum : sums) Keep(sum);
}

#if defined(__x86_64__)

// The empty asm makes the chains differ in the compiler's eyes, or it would compute only one.
#define CHORALE_CHAINS(type, step)                                              \
  type sums[kChains] = {};                                                      \
  _Pragma("GCC unroll 16") for (auto& sum : sums) asm volatile("" : "+v"(sum)); \
  for (int64_t round = 0; round < kFlopRounds; ++round) {                       \
    _Pragma("GCC unroll 16") for (auto& sum : sums) sum = step;                 \
  }                                                                             \
  _Pragma("GCC unroll 16") for (auto& sum : sums) asm volatile("" : "+v"(sum))

__attribute__((target("avx512f"))) void F32Wide() {
  const __m512 x = _mm512_set1_ps(0.5f);
  CHORALE_CHAINS(__m512, _mm512_fmadd_ps(sum, x, x));
}

__attribute__((target("avx2,fma"))) void F32Middle() {
  const __m256 x = _mm256_set1_ps(0.5f);
  CHORALE_CHAINS(__m256, _mm256_fmadd_ps(sum, x, x));
}

__attribute__((target("avx512f,avx512bf16"))) void Bf16Wide() {
  const __m512bh x = (__m512bh)_mm512_set1_epi16(0x3c00);
  CHORALE_CHAINS(__m512, _mm512_dpbf16_ps(sum, x, x));
}

#undef CHORALE_CHAINS
#endif

double Gflops(int threads, int flops_per_step, void (*fn)()) {
  const double flops = double{kChains} * kFlopRounds * flops_per_step * threads;
  return flops / BestNanoseconds(threads, [fn](int) { fn(); });
}

}  // namespace

double MeasureDramReadGBps(int threads) {
  kernels::Buffer buffer(kDramBytes);
  std::fill(buffer.data(), buffer.data() + kDramBytes, std::byte{1});  // maps every page
  const int64_t share = kDramBytes / threads / 256 * 256;
  const double ns =
      BestNanoseconds(threads, [&](int thread) { ReadAll(buffer.data() + thread * share, share); });
  return static_cast<double>(share * threads) / ns;
}

double MeasureF32Gflops(int threads) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return Gflops(threads, 32, F32Wide);
  if (__builtin_cpu_supports("avx2")) return Gflops(threads, 16, F32Middle);
#endif
  return Gflops(threads, 2, [] {
    float sums[kChains] = {};
    for (int64_t round = 0; round < kFlopRounds; ++round) {
      for (float& sum : sums) sum = sum * 0.5f + 0.5f;
      Keep(sums);
    }
  });
}

double MeasureBf16Gflops(int threads) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bf16")) return Gflops(threads, 64, Bf16Wide);
#endif
  static_cast<void>(threads);
  return 0;
}

}  // namespace chorale::bench
