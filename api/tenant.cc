#include "api/tenant.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/hash.h"
#include "base/status_macros.h"
#include "cache/block_key.h"

namespace chorale {
namespace {

constexpr std::string_view kScheme = "bearer";
// Sets these digests apart from all others.
constexpr std::string_view kDomain = "chorale tenant";
constexpr size_t kSaltDigits = 32;
static_assert(KeyScope::kPublicSalt.size() != kSaltDigits && !KeyScope::kPublicSalt.empty(),
              "a tenant would be everybody");

absl::Status Refusal(std::string_view found) {
  return absl::UnauthenticatedError(absl::StrFormat(
      "header 'Authorization': expected 'Bearer KEY', found %s; send the key so, or leave the "
      "header out to be served without a key",
      std::string(found)));
}

// What is wrong with a key; empty: nothing.
std::string FaultOf(std::string_view key) {
  if (key.empty()) return "an empty key";
  if (key.size() > kApiKeyBytesMax) {
    return absl::StrFormat("a key of %d bytes, more than the limit of %d", key.size(),
                           kApiKeyBytesMax);
  }
  const bool printable =
      std::all_of(key.begin(), key.end(), [](unsigned char c) { return absl::ascii_isgraph(c); });
  return printable ? "" : "a key with a space or another character that is not printable ASCII";
}

bool IsBlank(char c) { return c == ' ' || c == '\t'; }

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && IsBlank(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsBlank(text.back())) text.remove_suffix(1);
  return text;
}

// The key in the value of a header.
absl::StatusOr<std::string_view> KeyOf(std::string_view value) {
  value = Trimmed(value);
  const size_t scheme_bytes = std::min(value.size(), kScheme.size());
  const bool is_bearer =
      std::equal(value.begin(), value.begin() + scheme_bytes, kScheme.begin(), kScheme.end(),
                 [](char a, char b) { return absl::ascii_tolower(a) == b; }) &&
      (value.size() == kScheme.size() || IsBlank(value[kScheme.size()]));
  if (!is_bearer) return Refusal(value.empty() ? "an empty value" : "another scheme");
  const std::string_view key = Trimmed(value.substr(kScheme.size()));
  if (const std::string fault = FaultOf(key); !fault.empty()) return Refusal(fault);
  return key;
}

}  // namespace

absl::StatusOr<Tenant> TenantOf(std::span<const std::string_view> authorization) {
  if (authorization.empty()) return Tenant();
  if (authorization.size() > 1) {
    return Refusal(absl::StrFormat("%d such headers", authorization.size()));
  }
  ASSIGN_OR_RETURN(const std::string_view key, KeyOf(authorization.front()));
  const Digest digest = DigestBuilder().AddString(kDomain).AddString(key).Finish();
  return Tenant{.salt = digest.ToHex().substr(0, kSaltDigits)};
}

absl::StatusOr<std::string> AuthorizationOf(std::string_view api_key) {
  if (const std::string fault = FaultOf(api_key); !fault.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the API key: expected 1 to %d printable characters without spaces, found %s",
        kApiKeyBytesMax, fault));
  }
  return absl::StrCat("Bearer ", std::string(api_key));
}

}  // namespace chorale
