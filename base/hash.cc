#include "base/hash.h"

#include <cstring>

#include <openssl/evp.h>
#include <xxhash.h>

#include "absl/strings/str_format.h"
#include "base/check.h"

namespace chorale {

std::string Digest::ToHex() const {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string hex;
  hex.reserve(2 * bytes.size());
  for (uint8_t b : bytes) {
    hex.push_back(kHex[b >> 4]);
    hex.push_back(kHex[b & 15]);
  }
  return hex;
}

absl::StatusOr<Digest> Digest::FromBytes(std::string_view bytes) {
  Digest digest;
  if (bytes.size() != digest.bytes.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a digest has 32 bytes, this one has %d", bytes.size()));
  }
  std::memcpy(digest.bytes.data(), bytes.data(), bytes.size());
  return digest;
}

struct DigestBuilder::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

DigestBuilder::DigestBuilder() : state_(std::make_unique<State>()) {
  CHECK(state_->context != nullptr);
  CHECK_EQ(EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr), 1);
}

DigestBuilder::~DigestBuilder() = default;

DigestBuilder& DigestBuilder::AddRaw(std::span<const std::byte> bytes) {
  CHECK_EQ(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()), 1);
  return *this;
}

DigestBuilder& DigestBuilder::AddInt(int64_t v) { return AddRaw(std::as_bytes(std::span(&v, 1))); }

DigestBuilder& DigestBuilder::AddString(std::string_view s) {
  AddInt(static_cast<int64_t>(s.size()));
  return AddRaw(std::as_bytes(std::span(s)));
}

Digest DigestBuilder::Finish() {
  Digest digest;
  unsigned size = 0;
  CHECK_EQ(EVP_DigestFinal_ex(state_->context, digest.bytes.data(), &size), 1);
  CHECK_EQ(size, digest.bytes.size());
  return digest;
}

uint64_t Checksum64(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace chorale
