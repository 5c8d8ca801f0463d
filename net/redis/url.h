// RedisUrl: what --redis says.
//
//   redis://[user:password@]host[:port][,host[:port]...][/database]
//   unix:///path/of/socket[?database=N&user=U&password=P]
//
// Several hosts are servers of one cluster, any of which knows the others. Of one host, whether it
// is a cluster is asked of the server. User and password may be percent-encoded.
#pragma once

#include <compare>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace chorale {

struct RedisAddress {
  std::string host;  // a name or a number, without brackets; empty for a unix socket
  int port = 6379;
  std::string unix_path;

  auto operator<=>(const RedisAddress&) const = default;
  std::string ToString() const;
};

struct RedisUrl {
  std::vector<RedisAddress> servers;  // at least one
  std::string user;                   // empty: the server's default user
  std::string password;               // empty: no login
  int database = 0;

  // InvalidArgument names what is wrong and what to write instead, never the password.
  static absl::StatusOr<RedisUrl> Parse(std::string_view text);
  // For logs: without user and password.
  std::string ToString() const;
};

// "host:port", "[v6]:port", or a host alone. InvalidArgument when it is none of them.
absl::StatusOr<RedisAddress> ParseRedisAddress(std::string_view text);

}  // namespace chorale
