// RedisReply: what Redis answers to one command; RedisReplyReader: makes them of bytes.
//
// The bytes are parsed by hiredis, into our own objects, so that a reply costs one copy and its
// size has a bound: hiredis alone would allocate whatever length a broken server claims.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

struct redisReader;

namespace chorale {

struct RedisReply {
  enum class Kind {
    kNone,  // there was no answer; `text` says why
    kNil,
    kText,  // a string or a status
    kInteger,
    kArray,
    kError,  // Redis refused; `text` is its message
  };
  Kind kind = Kind::kNone;
  int64_t integer = 0;
  std::string text;
  std::vector<RedisReply> elements;

  bool ok() const { return kind != Kind::kNone && kind != Kind::kError; }
  bool is_text() const { return kind == Kind::kText; }
};

struct RedisReplyLimits {
  int64_t bytes_max = 256 << 20;  // of one reply as it travels
  int elements_max = 1 << 18;     // of all arrays in one reply
};

// Not thread safe. After an error it gives nothing any more.
class RedisReplyReader {
 public:
  explicit RedisReplyReader(const RedisReplyLimits& limits);
  ~RedisReplyReader();
  RedisReplyReader(const RedisReplyReader&) = delete;
  RedisReplyReader& operator=(const RedisReplyReader&) = delete;

  absl::Status Feed(std::string_view bytes);
  // The next whole reply, or nothing when more bytes are needed. DataLoss: this is not Redis's
  // protocol, or the reply is over a limit.
  absl::StatusOr<std::optional<RedisReply>> Next();

 private:
  const RedisReplyLimits limits_;
  int elements_left_;
  int64_t bytes_pending_ = 0;  // fed since the last whole reply, about
  redisReader* reader_;
};

}  // namespace chorale
