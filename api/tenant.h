// Tenant: whose cached K/V a request may read, and whose its own becomes.
//
// A tenant is an API key. The key itself goes no further than this file: what travels, and what
// names blocks (cache/block_key.h), is a salt from which the key cannot be told.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace chorale {

inline constexpr int kApiKeyBytesMax = 512;

struct Tenant {
  // 32 hexadecimal digits; empty: all those who bring no key, who are one tenant.
  std::string salt;
};

// The tenant that the values of a request's Authorization headers name; no header names the tenant
// without a key. Unauthenticated says what to send: there may be one header, `Bearer KEY`, with a
// KEY of 1 to kApiKeyBytesMax printable characters without spaces. No message repeats the header.
absl::StatusOr<Tenant> TenantOf(std::span<const std::string_view> authorization);

// The header by which `api_key` is sent. InvalidArgument when TenantOf would refuse it.
absl::StatusOr<std::string> AuthorizationOf(std::string_view api_key);

}  // namespace chorale
