// Two hashes with two purposes, not to be confused.
//
// Digest (SHA-256) names things: modules, and through cache/block_key the blocks they wrote. It is
// collision resistant, so equal names may be taken for equal things, also across tenants.
// Checksum64 (XXH3) finds accidents: a flipped bit on a wire or a disk. It is fast and names
// nothing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace chorale {

// 32 bytes of SHA-256.
struct Digest {
  std::array<uint8_t, 32> bytes{};

  auto operator<=>(const Digest&) const = default;
  // 64 lower-case hexadecimal characters.
  std::string ToHex() const;
  // The first 12 hexadecimal characters, for people.
  std::string Short() const { return ToHex().substr(0, 12); }
  std::string_view AsBytes() const {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  // InvalidArgument unless `bytes` has 32 bytes.
  static absl::StatusOr<Digest> FromBytes(std::string_view bytes);

  template <typename H>
  friend H AbslHashValue(H h, const Digest& d) {
    return H::combine(std::move(h), d.bytes);
  }
};

// Incremental SHA-256. Not thread safe. Strings are framed by their length, so that
// Add("ab").Add("c") and Add("a").Add("bc") differ.
class DigestBuilder {
 public:
  DigestBuilder();
  ~DigestBuilder();
  DigestBuilder(const DigestBuilder&) = delete;
  DigestBuilder& operator=(const DigestBuilder&) = delete;

  DigestBuilder& AddString(std::string_view s);
  DigestBuilder& AddInt(int64_t v);
  DigestBuilder& AddRaw(std::span<const std::byte> bytes);  // not framed
  // Ends the digest; the builder must not be used again.
  Digest Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// XXH3, 64 bits.
uint64_t Checksum64(std::span<const std::byte> bytes);

}  // namespace chorale
