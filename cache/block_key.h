// BlockKey: the name of a key/value block, and so the answer to "may I read it?".
//
//   key = H(key of the block before, the block's token ids, digest of the writer, tenant salt)
//
// Two requests share a block exactly when the same weights wrote the same tokens after the same
// history for the same tenant, or for everybody. Nothing else in Chorale decides sharing. A block
// that two writers filled, because the prompt ended inside it, has a writer of its own: both, and
// where they met.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/hash.h"
#include "base/token.h"

namespace chorale {

// The first 16 bytes of a SHA-256. All zero: the history before the first block.
struct BlockKey {
  std::array<uint8_t, 16> bytes{};

  auto operator<=>(const BlockKey&) const = default;
  std::string ToHex() const;
  std::string_view AsBytes() const {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  static absl::StatusOr<BlockKey> FromBytes(std::string_view bytes);

  template <typename H>
  friend H AbslHashValue(H h, const BlockKey& k) {
    return H::combine(std::move(h), k.bytes);
  }
};

// The key of the block that holds `tokens` (1 to kBlockTokens of them) after `parent`.
BlockKey MakeBlockKey(const BlockKey& parent, std::span<const TokenId> tokens, const Digest& writer,
                      std::string_view tenant_salt);

// What stands for the writer of a block whose first `tokens` tokens `first` wrote, and `second` the
// rest.
Digest WriterOfMixedBlock(const Digest& first, int tokens, const Digest& second);
// What stands for `writer` in sequences that have outgrown its short context, where all positions
// turn by other frequencies (model/rope.h).
Digest WriterOfLongContext(const Digest& writer);

// Whose the blocks of a sequence are: those that lie wholly within its first `public_tokens` tokens
// belong to everybody, the others to the tenant. No tenant's salt is kPublicSalt.
struct KeyScope {
  std::string tenant_salt;
  int public_tokens = 0;

  // Of a block that ends before position `end` of its sequence.
  std::string_view SaltOf(int end) const {
    return end <= public_tokens ? kPublicSalt : tenant_salt;
  }
  static constexpr std::string_view kPublicSalt = "public";
};

// The keys of the blocks of `tokens` from the start of a sequence, all by one writer. A last block
// that is not full has a key too, by the tokens it holds.
std::vector<BlockKey> MakeBlockKeys(std::span<const TokenId> tokens, const Digest& writer,
                                    const KeyScope& scope);

}  // namespace chorale
