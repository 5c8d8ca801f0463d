#include "net/redis/url.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

constexpr std::string_view kRemedy =
    "write redis://[user:password@]host[:port][,host...][/database] or unix:///path";
constexpr size_t kHostBytesMax = 253;
constexpr std::string_view kHidden = "(hidden)";  // it may be a password in the wrong place

absl::Status Invalid(std::string_view field, std::string_view value, std::string_view remedy) {
  return absl::InvalidArgumentError(absl::StrCat("redis: ", std::string(field), " '",
                                                 std::string(value), "': ", std::string(remedy)));
}

bool IsDigits(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::optional<int> ParseNumber(std::string_view text, int max) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || !IsDigits(text) || error != std::errc() || end != text.data() + text.size())
    return {};
  if (value < 0 || value > max) return {};
  return value;
}

absl::StatusOr<std::string> PercentDecode(std::string_view field, std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    unsigned value = 0;
    const char* begin = text.data() + std::min(i + 1, text.size());
    const char* end = text.data() + std::min(i + 3, text.size());
    const auto [stop, error] = std::from_chars(begin, end, value, 16);
    if (error != std::errc() || stop != begin + 2) {
      return Invalid(field, kHidden, "write a literal % as %25");
    }
    out += static_cast<char>(value);
    i += 2;
  }
  return out;
}

absl::Status ParseDatabase(std::string_view text, RedisUrl& url) {
  const std::optional<int> database = ParseNumber(text, 1'000'000);
  if (!database) {
    return Invalid("database", IsDigits(text) ? text : kHidden,
                   "write a number up to 1000000, as in redis://host/0");
  }
  url.database = *database;
  return absl::OkStatus();
}

absl::StatusOr<RedisUrl> ParseUnix(std::string_view rest) {
  RedisUrl url;
  const size_t question = rest.find('?');
  const std::string_view path = rest.substr(0, question);
  if (path.find("password=") != path.npos) {
    return Invalid("path", kHidden, "parameters follow a ?, as in unix:///path?password=secret");
  }
  // 107: what fits into sockaddr_un.
  if (path.empty() || path[0] != '/' || path.size() > 107) {
    return Invalid("path", path, "write unix:// and an absolute path of at most 107 bytes");
  }
  url.servers.push_back({.unix_path = std::string(path)});
  std::string_view query = question == rest.npos ? "" : rest.substr(question + 1);
  while (!query.empty()) {
    const std::string_view pair = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(query.size(), pair.size() + 1));
    const size_t equals = pair.find('=');
    const std::string_view name = pair.substr(0, equals);
    const std::string_view value = equals == pair.npos ? "" : pair.substr(equals + 1);
    if (name == "database" || name == "db") {
      RETURN_IF_ERROR(ParseDatabase(value, url));
    } else if (name == "user") {
      ASSIGN_OR_RETURN(url.user, PercentDecode(name, value));
    } else if (name == "password") {
      ASSIGN_OR_RETURN(url.password, PercentDecode(name, value));
    } else {
      return Invalid("parameter", kHidden, "use database, user or password");
    }
  }
  return url;
}

absl::StatusOr<RedisUrl> ParseTcp(std::string_view rest) {
  RedisUrl url;
  if (const size_t at = rest.rfind('@'); at != rest.npos) {
    const std::string_view login = rest.substr(0, at);
    const size_t colon = login.find(':');
    if (colon == login.npos) {
      return Invalid("login", kHidden, "write user:password@ or :password@");
    }
    ASSIGN_OR_RETURN(url.user, PercentDecode("user", login.substr(0, colon)));
    ASSIGN_OR_RETURN(url.password, PercentDecode("password", login.substr(colon + 1)));
    rest.remove_prefix(at + 1);
  }
  if (rest.find('?') != rest.npos) {
    return Invalid("parameters", kHidden, "a redis:// URL has none: redis://user:password@host/0");
  }
  const size_t slash = rest.find('/');
  if (slash != rest.npos && slash + 1 < rest.size()) {
    RETURN_IF_ERROR(ParseDatabase(rest.substr(slash + 1), url));
  }
  std::string_view hosts = rest.substr(0, slash);
  while (true) {
    const size_t comma = hosts.find(',');
    ASSIGN_OR_RETURN(RedisAddress address, ParseRedisAddress(hosts.substr(0, comma)));
    url.servers.push_back(std::move(address));
    if (comma == hosts.npos) break;
    hosts.remove_prefix(comma + 1);
  }
  if (url.servers.size() > 1 && url.database != 0) {
    return Invalid("database", absl::StrCat(url.database),
                   "several hosts are a cluster, and a cluster has only database 0");
  }
  return url;
}

}  // namespace

std::string RedisAddress::ToString() const {
  if (!unix_path.empty()) return absl::StrCat("unix:", unix_path);
  if (host.find(':') != host.npos) return absl::StrCat("[", host, "]:", port);
  return absl::StrCat(host, ":", port);
}

absl::StatusOr<RedisAddress> ParseRedisAddress(std::string_view text) {
  RedisAddress address;
  std::string_view host = text, port;
  if (!text.empty() && text[0] == '[') {
    const size_t close = text.find(']');
    if (close == text.npos) return Invalid("host", text, "close the bracket, as in [::1]:6379");
    host = text.substr(1, close - 1);
    port = text.substr(close + 1);
    if (!port.empty() && port[0] != ':') return Invalid("host", text, "write [address]:port");
  } else if (const size_t colon = text.rfind(':'); colon != text.npos) {
    host = text.substr(0, colon);
    port = text.substr(colon);
    if (host.find(':') != host.npos)
      return Invalid("host", kHidden, "write [address]:port; a login ends with @");
  }
  const auto bad = [](unsigned char c) {
    return c <= ' ' || c == '/' || c == '@' || c == '[' || c == ']' || c >= 127;
  };
  if (host.empty() || host.size() > kHostBytesMax || std::any_of(host.begin(), host.end(), bad)) {
    return Invalid("host", host, kRemedy);
  }
  address.host = std::string(host);
  if (!port.empty()) {
    const std::optional<int> number = ParseNumber(port.substr(1), 65535);
    if (!number || *number == 0) {
      return Invalid("port",
                     IsDigits(port.substr(1)) && port.size() <= 6 ? port.substr(1) : kHidden,
                     "write a number from 1 to 65535, as in host:6379; a login ends with @");
    }
    address.port = *number;
  }
  return address;
}

absl::StatusOr<RedisUrl> RedisUrl::Parse(std::string_view text) {
  const size_t colon = text.find("://");
  const std::string_view scheme = colon == text.npos ? "" : text.substr(0, colon);
  if (scheme == "redis") return ParseTcp(text.substr(colon + 3));
  if (scheme == "unix") return ParseUnix(text.substr(colon + 3));
  if (scheme == "rediss") {
    return Invalid("scheme", scheme, "TLS is not spoken; write redis:// to a local TLS tunnel");
  }
  return Invalid("scheme", scheme, kRemedy);
}

std::string RedisUrl::ToString() const {
  if (!servers[0].unix_path.empty()) return absl::StrCat("unix://", servers[0].unix_path);
  std::string out = "redis://";
  for (size_t i = 0; i < servers.size(); ++i) {
    absl::StrAppend(&out, i > 0 ? "," : "", servers[i].ToString());
  }
  if (database != 0) absl::StrAppend(&out, "/", database);
  return out;
}

}  // namespace chorale
