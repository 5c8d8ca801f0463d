// Counter-based randomness: a value is a pure function of (seed, stream, counter).
//
// Nothing is carried from draw to draw, so a sequence that is migrated, replayed or recomputed
// draws the same numbers at the same positions. The mixer is SplitMix64 (Steele, Lea, Flood, OOPSLA
// 2014, section 4).
#pragma once

#include <cstdint>

namespace chorale {

constexpr uint64_t MixBits(uint64_t z) {
  z += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// 64 random bits at `counter` of `stream` under `seed`.
constexpr uint64_t RandomBits(uint64_t seed, uint64_t stream, uint64_t counter) {
  return MixBits(MixBits(MixBits(seed) ^ stream) ^ counter);
}

// Uniform in [0, 1), 53 bits.
constexpr double RandomUniform(uint64_t seed, uint64_t stream, uint64_t counter) {
  return static_cast<double>(RandomBits(seed, stream, counter) >> 11) * 0x1.0p-53;
}

}  // namespace chorale
