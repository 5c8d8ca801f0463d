// Any bytes as whatever a Redis server says, and as --redis. What is accepted keeps its promises,
// and says the same when it is written and read again.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/hash.h"
#include "net/redis/health.h"
#include "net/redis/reply.h"
#include "net/redis/slots.h"
#include "net/redis/url.h"
#include "services/kvstore/redis/redis_value.h"

namespace {

using chorale::BlockKey;
using chorale::RedisAddress;
using chorale::RedisReply;
using chorale::RedisUrl;
using Kind = chorale::RedisReply::Kind;

constexpr chorale::RedisReplyLimits kLimits = {.bytes_max = 1 << 16, .elements_max = 64};

void Require(bool condition) {
  if (!condition) std::abort();
}

// As Redis would send it.
void Write(const RedisReply& reply, std::string& out) {
  switch (reply.kind) {
    case Kind::kNone:
      return Require(false);
    case Kind::kNil:
      out += "$-1\r\n";
      return;
    case Kind::kText:
      absl::StrAppend(&out, "$", reply.text.size(), "\r\n", reply.text, "\r\n");
      return;
    case Kind::kInteger:
      absl::StrAppend(&out, ":", reply.integer, "\r\n");
      return;
    case Kind::kError:
      absl::StrAppend(&out, "-", reply.text, "\r\n");
      return;
    case Kind::kArray:
      absl::StrAppend(&out, "*", reply.elements.size(), "\r\n");
      for (const RedisReply& element : reply.elements) Write(element, out);
      return;
  }
}

int ElementsOf(const RedisReply& reply) {
  int elements = static_cast<int>(reply.elements.size());
  for (const RedisReply& element : reply.elements) elements += ElementsOf(element);
  return elements;
}

struct Replies {
  std::vector<RedisReply> replies;
  bool sound = true;  // all bytes
};

// Reads `bytes`, fed `piece` of them at a time.
Replies ReadAll(std::string_view bytes, size_t piece) {
  chorale::RedisReplyReader reader(kLimits);
  Replies read;
  for (size_t begin = 0; begin < bytes.size(); begin += piece) {
    Require(reader.Feed(bytes.substr(begin, piece)).ok());
    while (true) {
      auto reply = reader.Next();
      if (!reply.ok()) {
        Require(absl::IsDataLoss(reply.status()));
        read.sound = false;
        return read;
      }
      if (!reply->has_value()) break;
      read.replies.push_back(**std::move(reply));
    }
  }
  return read;
}

std::string WriteAll(const Replies& read) {
  std::string out;
  for (const RedisReply& reply : read.replies) Write(reply, out);
  return out;
}

void CheckAddress(const RedisAddress& address) {
  Require(address.unix_path.empty() && address.host.size() <= 253);
  Require(address.port >= 1 && address.port <= 65535);
}

void CheckSlots(const RedisReply& reply, const RedisAddress& asked) {
  const auto ranges = chorale::ParseClusterSlots(reply, asked);
  if (!ranges.ok()) return Require(absl::IsDataLoss(ranges.status()));
  Require(reply.kind == Kind::kArray && ranges->size() == reply.elements.size());
  for (const chorale::RedisSlotRange& range : *ranges) {
    Require(0 <= range.first && range.first <= range.last && range.last < chorale::kRedisSlots);
    CheckAddress(range.master);
    Require(!range.master.host.empty());
  }
}

void CheckRedirect(std::string_view message, const RedisAddress& said_by) {
  const auto redirect = chorale::ParseRedisRedirect(message, said_by);
  if (!redirect) return;
  Require(redirect->slot >= 0 && redirect->slot < chorale::kRedisSlots);
  CheckAddress(redirect->to);
  Require(!redirect->to.host.empty());
  const auto again =
      chorale::ParseRedisRedirect(absl::StrCat(redirect->ask ? "ASK " : "MOVED ", redirect->slot,
                                               " ", redirect->to.host, ":", redirect->to.port),
                                  said_by);
  Require(again && again->ask == redirect->ask && again->slot == redirect->slot);
  Require(again->to == redirect->to);
}

// As a value under the key that it claims, and under another.
void CheckValue(std::string_view value) {
  BlockKey key;
  if (value.size() >= 56) std::memcpy(key.bytes.data(), value.data() + 40, 16);
  const auto head = chorale::DecodeRedisBlock(key, value);
  if (!head.ok()) return Require(absl::IsDataLoss(head.status()));
  const auto bytes = std::as_bytes(std::span(value)).subspan(chorale::kRedisBlockHeadBytes);
  Require(head->checksum == chorale::Checksum64(bytes));
  key.bytes[0] ^= 1;
  Require(!chorale::DecodeRedisBlock(key, value).ok());
}

// `input` as a block; then the value with a part of it changed as its first bytes say.
void CheckChangedValue(std::string_view input) {
  BlockKey key;
  key.bytes.fill(7);
  const auto bytes = std::as_bytes(std::span(input));
  const chorale::RedisBlockHead head = {
      .format = input.size(), .index = -1, .checksum = chorale::Checksum64(bytes)};
  std::string value = chorale::EncodeRedisBlock(key, head, bytes);
  const auto read = chorale::DecodeRedisBlock(key, value);
  Require(read.ok() && read->format == head.format && read->index == head.index);
  Require(read->checksum == head.checksum);
  if (input.size() < 4) return;
  const std::string whole = value;
  const size_t at = static_cast<uint8_t>(input[0]) % value.size();
  const size_t size = 1 + static_cast<uint8_t>(input[1]) % 8;
  if (input[2] % 2 == 0) {
    value.replace(at, size, input.substr(3, size));
  } else {
    value.resize(at + size);
  }
  Require(chorale::DecodeRedisBlock(key, value).ok() == (value == whole));
}

void CheckUrl(std::string_view text) {
  const auto url = RedisUrl::Parse(text);
  if (!url.ok()) {
    Require(absl::IsInvalidArgument(url.status()) && !url.status().message().empty());
    return;
  }
  Require(!url->servers.empty() && url->database >= 0);
  const std::string& path = url->servers[0].unix_path;
  if (!path.empty()) {
    Require(url->servers.size() == 1 && url->servers[0].host.empty());
    Require(path[0] == '/' && path.size() <= 107);
    return;
  }
  Require(url->servers.size() == 1 || url->database == 0);
  for (const RedisAddress& server : url->servers) {
    CheckAddress(server);
    Require(!server.host.empty());
  }
  const auto again = RedisUrl::Parse(url->ToString());
  Require(again.ok() && again->servers == url->servers && again->database == url->database);
  Require(again->user.empty() && again->password.empty());
}

// Neither the words about a URL nor those of its errors have the password in them.
void CheckSecrecy(std::string_view input) {
  const std::string password = "hunter2", rest(input);
  if (absl::StrContains(rest, password)) return;
  for (const std::string& text : {absl::StrCat("redis://:", password, "@", rest),
                                  absl::StrCat("redis://", rest, ":", password, "@localhost/1"),
                                  absl::StrCat("unix:///s?password=", password, "&", rest)}) {
    const auto url = RedisUrl::Parse(text);
    const std::string said = url.ok() ? url->ToString() : url.status().ToString();
    Require(!absl::StrContains(said, password));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data),
                               std::min<size_t>(size, kLimits.bytes_max));
  const RedisAddress asked = {.host = "10.0.0.9", .port = 7000};
  const Replies whole = ReadAll(input, input.size() + 1);
  const std::string written = WriteAll(whole);
  const Replies in_pieces = ReadAll(input, 7);
  Require(in_pieces.sound == whole.sound && WriteAll(in_pieces) == written);
  const Replies again = ReadAll(written, written.size() + 1);
  Require(again.sound && again.replies.size() == whole.replies.size());
  Require(WriteAll(again) == written);
  for (const RedisReply& reply : whole.replies) {
    Require(ElementsOf(reply) <= kLimits.elements_max);
    CheckSlots(reply, asked);
    if (reply.is_text()) CheckValue(reply.text);
    if (reply.kind != Kind::kError) continue;
    CheckRedirect(reply.text, asked);
    (void)chorale::StateOfRedisError(reply.text);
  }
  CheckRedirect(input, asked);
  CheckValue(input);
  CheckChangedValue(input);
  CheckUrl(input);
  CheckSecrecy(input);
  return 0;
}
