#include "cache/block_key.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "kernels/tensor.h"

namespace chorale {

std::string BlockKey::ToHex() const {
  std::string hex;
  for (uint8_t b : bytes) hex += absl::StrFormat("%02x", b);
  return hex;
}

absl::StatusOr<BlockKey> BlockKey::FromBytes(std::string_view bytes) {
  BlockKey key;
  if (bytes.size() != key.bytes.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a block key has 16 bytes, this one has %d", bytes.size()));
  }
  std::memcpy(key.bytes.data(), bytes.data(), bytes.size());
  return key;
}

BlockKey MakeBlockKey(const BlockKey& parent, std::span<const TokenId> tokens, const Digest& writer,
                      std::string_view tenant_salt) {
  CHECK(!tokens.empty() && tokens.size() <= kernels::kBlockTokens);
  const Digest digest = DigestBuilder()
                            .AddRaw(std::as_bytes(std::span(parent.bytes)))
                            .AddRaw(std::as_bytes(std::span(writer.bytes)))
                            .AddInt(static_cast<int64_t>(tokens.size()))
                            .AddRaw(std::as_bytes(tokens))
                            .AddString(tenant_salt)
                            .Finish();
  BlockKey key;
  std::copy_n(digest.bytes.begin(), key.bytes.size(), key.bytes.begin());
  return key;
}

Digest WriterOfMixedBlock(const Digest& first, int tokens, const Digest& second) {
  DigestBuilder digest;
  digest.AddString("chorale mixed block").AddString(first.AsBytes()).AddInt(tokens);
  return digest.AddString(second.AsBytes()).Finish();
}

Digest WriterOfLongContext(const Digest& writer) {
  DigestBuilder digest;
  return digest.AddString("chorale long context").AddString(writer.AsBytes()).Finish();
}

std::vector<BlockKey> MakeBlockKeys(std::span<const TokenId> tokens, const Digest& writer,
                                    const KeyScope& scope) {
  std::vector<BlockKey> keys;
  BlockKey parent;
  for (size_t begin = 0; begin < tokens.size(); begin += kernels::kBlockTokens) {
    const size_t count = std::min<size_t>(kernels::kBlockTokens, tokens.size() - begin);
    parent = MakeBlockKey(parent, tokens.subspan(begin, count), writer,
                          scope.SaltOf(static_cast<int>(begin + count)));
    keys.push_back(parent);
  }
  return keys;
}

}  // namespace chorale
