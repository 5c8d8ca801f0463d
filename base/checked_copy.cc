#include "base/checked_copy.h"

#include <algorithm>
#include <cstring>

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>
// The library is built for the oldest processors; its dispatch is four times as fast on newer ones.
#if defined(__x86_64__)
#include <xxh_x86dispatch.h>
#endif

namespace chorale {
namespace {

constexpr size_t kStepBytes = 64 << 10;  // stays in the second-level cache, both sides of it

}  // namespace

struct CheckedCopy::State {
  XXH3_state_t hash;
};

CheckedCopy::CheckedCopy() : state_(std::make_unique<State>()) { XXH3_64bits_reset(&state_->hash); }
CheckedCopy::~CheckedCopy() = default;
CheckedCopy::CheckedCopy(CheckedCopy&&) noexcept = default;
CheckedCopy& CheckedCopy::operator=(CheckedCopy&&) noexcept = default;

void CheckedCopy::Append(std::byte* to, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const size_t size = std::min(bytes.size(), kStepBytes);
    std::memcpy(to, bytes.data(), size);
    XXH3_64bits_update(&state_->hash, to, size);
    to += size;
    bytes = bytes.subspan(size);
  }
}

uint64_t CheckedCopy::Finish() {
  const uint64_t checksum = XXH3_64bits_digest(&state_->hash);
  XXH3_64bits_reset(&state_->hash);
  return checksum;
}

}  // namespace chorale
