#include "services/kvstore/redis/redis_tier.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "process/log.h"

namespace chorale {
namespace {

constexpr size_t kBatchWritesMax = 256;
// What a queued write costs besides its value.
constexpr int64_t kWriteBytes = 256;

std::vector<RedisCommand> ForEach(std::span<const BlockKey> keys, const char* name, bool write) {
  std::vector<RedisCommand> commands;
  commands.reserve(keys.size());
  for (const BlockKey& key : keys) {
    commands.push_back({.words = {name, RedisKeyOfBlock(key)}, .write = write});
  }
  return commands;
}

}  // namespace

RedisTier::RedisTier(Redis& redis, const Options& options)
    : redis_(redis), options_(options), writer_([this] { Run(); }) {}

RedisTier::~RedisTier() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  writer_.join();
}

bool RedisTier::Put(const BlockKey& key, const RedisBlockHead& head,
                    std::span<const std::byte> bytes) {
  std::string name = RedisKeyOfBlock(key);
  const int64_t size = static_cast<int64_t>(bytes.size());
  bool room = redis_.MayWrite(name);
  {
    std::lock_guard lock(mutex_);
    room = room && queue_bytes_ + size + kWriteBytes <= options_.queue_bytes_max;
    if (!room) ++counters_.dropped;
  }
  if (!room) return false;
  Write write{.command = {.write = true}, .bytes = size};
  write.command.words = {"SET", std::move(name), EncodeRedisBlock(key, head, bytes)};
  if (options_.ttl > absl::ZeroDuration()) {
    write.command.words.push_back("PX");
    write.command.words.push_back(absl::StrCat(absl::ToInt64Milliseconds(options_.ttl)));
  }
  return Enqueue(std::move(write));
}

bool RedisTier::Enqueue(Write write) {
  {
    std::lock_guard lock(mutex_);
    if (queue_bytes_ + write.bytes + kWriteBytes > options_.queue_bytes_max) {
      if (write.bytes > 0) ++counters_.dropped;
      return false;
    }
    queue_bytes_ += write.bytes + kWriteBytes;
    queue_.push_back(std::move(write));
  }
  wake_.notify_one();
  return true;
}

void RedisTier::Run() {
  while (true) {
    std::deque<Write> batch;
    {
      std::unique_lock lock(mutex_);
      writing_ = false;
      if (queue_.empty()) drained_.notify_all();
      wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (stopping_) return;
      for (int64_t bytes = 0; !queue_.empty() && batch.size() < kBatchWritesMax;) {
        bytes += queue_.front().bytes;
        if (!batch.empty() && bytes > options_.batch_bytes) break;
        batch.push_back(std::move(queue_.front()));
        queue_.pop_front();
      }
      writing_ = true;
    }
    WriteBatch(std::move(batch));
  }
}

void RedisTier::WriteBatch(std::deque<Write> batch) {
  std::vector<RedisCommand> commands;
  int64_t bytes = 0;
  for (Write& write : batch) {
    commands.push_back(std::move(write.command));
    bytes += write.bytes;
  }
  const absl::Duration timeout =
      redis_.options().timeout + absl::Seconds(static_cast<double>(bytes) /
                                               static_cast<double>(options_.bytes_per_second_min));
  const std::vector<RedisReply> replies = redis_.Execute(commands, timeout);
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < batch.size(); ++i) {
    // Of the queue until here: what is on its way takes memory as well.
    queue_bytes_ -= batch[i].bytes + kWriteBytes;
    if (commands[i].words[0] != "SET") continue;
    if (replies[i].ok()) {
      ++counters_.written;
      counters_.bytes_written += batch[i].bytes;
    } else {
      ++counters_.dropped;
    }
  }
}

std::vector<std::optional<RedisBlock>> RedisTier::Get(std::span<const BlockKey> keys,
                                                      absl::Duration timeout) {
  std::vector<RedisReply> replies = redis_.Execute(ForEach(keys, "GET", /*write=*/false), timeout);
  std::vector<std::optional<RedisBlock>> blocks(keys.size());
  RedisTierCounters seen;
  for (size_t i = 0; i < keys.size(); ++i) {
    RedisReply& reply = replies[i];
    if (reply.kind == RedisReply::Kind::kNil) ++seen.misses;
    if (reply.kind == RedisReply::Kind::kNone) ++seen.failed;
    if (reply.kind == RedisReply::Kind::kNil || reply.kind == RedisReply::Kind::kNone) continue;
    if (reply.kind == RedisReply::Kind::kError && !reply.text.starts_with("WRONGTYPE ")) {
      ++seen.failed;
      continue;
    }
    const absl::StatusOr<RedisBlockHead> head = DecodeRedisBlock(keys[i], reply.text);
    if (head.ok()) {
      ++seen.hits;
      blocks[i] = RedisBlock{.head = *head, .value = std::move(reply.text)};
      continue;
    }
    ++seen.corrupt;
    LogWarning("redis: block ", keys[i].ToHex(), " is dropped: ", head.status().message());
    Enqueue({.command = {.words = {"DEL", RedisKeyOfBlock(keys[i])}, .write = true}});
  }
  std::lock_guard lock(mutex_);
  counters_.hits += seen.hits;
  counters_.misses += seen.misses;
  counters_.failed += seen.failed;
  counters_.corrupt += seen.corrupt;
  return blocks;
}

int RedisTier::CountPrefix(std::span<const BlockKey> keys, absl::Duration timeout) {
  const std::vector<RedisReply> replies =
      redis_.Execute(ForEach(keys, "EXISTS", /*write=*/false), timeout);
  const auto is_absent = [](const RedisReply& r) { return !r.ok() || r.integer != 1; };
  return static_cast<int>(std::find_if(replies.begin(), replies.end(), is_absent) -
                          replies.begin());
}

bool RedisTier::Drain(absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  return drained_.wait_for(lock, absl::ToChronoNanoseconds(timeout),
                           [this] { return queue_.empty() && !writing_; });
}

RedisTierCounters RedisTier::counters() const {
  std::lock_guard lock(mutex_);
  RedisTierCounters out = counters_;
  out.blocks_queued = static_cast<int64_t>(queue_.size());
  out.bytes_queued = queue_bytes_;
  return out;
}

}  // namespace chorale
