#include "net/redis/reply.h"

#include <utility>

#include <hiredis/hiredis.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

using Kind = RedisReply::Kind;

// Puts a value where the task says: into its array, or alone.
void* Place(const redisReadTask* task, RedisReply value) {
  if (task->parent == nullptr) return new RedisReply(std::move(value));
  RedisReply& array = *static_cast<RedisReply*>(task->parent->obj);
  RedisReply& place = array.elements[static_cast<size_t>(task->idx)];
  place = std::move(value);
  return &place;
}

void* PlaceText(const redisReadTask* task, char* text, size_t bytes) {
  const Kind kind = task->type == REDIS_REPLY_ERROR ? Kind::kError : Kind::kText;
  return Place(task, {.kind = kind, .text = std::string(text, bytes)});
}

// Count is int in hiredis 0.14 and size_t since 1.0. Null makes the reader give up.
template <typename Count>
void* PlaceArray(const redisReadTask* task, Count count) {
  int& left = *static_cast<int*>(task->privdata);
  if (count < 0 || static_cast<uint64_t>(count) > static_cast<uint64_t>(left)) return nullptr;
  left -= static_cast<int>(count);
  RedisReply array{.kind = Kind::kArray};
  array.elements.resize(static_cast<size_t>(count));
  return Place(task, std::move(array));
}

void* PlaceInteger(const redisReadTask* task, long long value) {  // NOLINT: hiredis's type
  return Place(task, {.kind = Kind::kInteger, .integer = value});
}

void* PlaceNil(const redisReadTask* task) { return Place(task, {.kind = Kind::kNil}); }

void Free(void* reply) { delete static_cast<RedisReply*>(reply); }

// Types of RESP3, which we do not ask for but a broken server may send; hiredis knows them since
// 1.0.
template <typename Functions>
void AddNewTypes(Functions& functions) {
  if constexpr (requires { functions.createDouble; }) {
    functions.createDouble = [](const redisReadTask* task, double, char* text, size_t bytes) {
      return PlaceText(task, text, bytes);
    };
  }
  if constexpr (requires { functions.createBool; }) {
    functions.createBool = [](const redisReadTask* task, int value) {
      return PlaceInteger(task, value);
    };
  }
}

redisReplyObjectFunctions MakeFunctions() {
  redisReplyObjectFunctions functions{};
  functions.createString = PlaceText;
  functions.createArray = PlaceArray;
  functions.createInteger = PlaceInteger;
  functions.createNil = PlaceNil;
  functions.freeObject = Free;
  AddNewTypes(functions);
  return functions;
}

}  // namespace

RedisReplyReader::RedisReplyReader(const RedisReplyLimits& limits)
    : limits_(limits), elements_left_(limits.elements_max) {
  static redisReplyObjectFunctions functions = MakeFunctions();
  reader_ = redisReaderCreateWithFunctions(&functions);
  CHECK(reader_ != nullptr) << "out of memory";
  reader_->privdata = &elements_left_;
}

RedisReplyReader::~RedisReplyReader() { redisReaderFree(reader_); }

absl::Status RedisReplyReader::Feed(std::string_view bytes) {
  bytes_pending_ += static_cast<int64_t>(bytes.size());
  if (bytes_pending_ > limits_.bytes_max) {
    return absl::DataLossError(absl::StrCat("reply of over ", limits_.bytes_max, " bytes"));
  }
  if (redisReaderFeed(reader_, bytes.data(), bytes.size()) != REDIS_OK) {
    return absl::DataLossError(reader_->errstr);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<RedisReply>> RedisReplyReader::Next() {
  void* object = nullptr;
  if (redisReaderGetReply(reader_, &object) != REDIS_OK) {
    return absl::DataLossError(reader_->errstr);
  }
  if (object == nullptr) return std::optional<RedisReply>();
  const std::unique_ptr<RedisReply> reply(static_cast<RedisReply*>(object));
  elements_left_ = limits_.elements_max;
  bytes_pending_ = static_cast<int64_t>(reader_->len - reader_->pos);
  return std::optional<RedisReply>(std::move(*reply));
}

}  // namespace chorale
