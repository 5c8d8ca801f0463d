// RedisConnection: one socket to one Redis server, over which commands go in a pipeline; RunTurns
// moves several of them at once. Nothing here waits, except RunTurns, and that no longer than told.
//
// hiredis makes the connection and parses the replies. The sending is done here: hiredis would copy
// every value into a buffer and shift that after each partial write, and it does not shield the
// process from SIGPIPE. Not thread safe: whoever holds a connection owns it.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sys/uio.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "net/redis/health.h"
#include "net/redis/reply.h"
#include "net/redis/url.h"

struct redisContext;

namespace chorale {

struct RedisCommand {
  std::vector<std::string> words;  // the name, the key, what else there is
  bool write = false;              // refused by a server that is full or read-only
};

class RedisConnection {
 public:
  // Begins to connect to `server`, whose host must be a number, and to log in as `login` says.
  static absl::StatusOr<std::unique_ptr<RedisConnection>> Start(const RedisAddress& server,
                                                                const RedisUrl& login,
                                                                const RedisReplyLimits& limits);
  ~RedisConnection();
  RedisConnection(const RedisConnection&) = delete;
  RedisConnection& operator=(const RedisConnection&) = delete;

  // `command` must live and stay as it is until it is answered or the connection gone. `asking`:
  // the server is to serve a slot that it is just taking over.
  void Queue(const RedisCommand& command, bool asking = false);
  // Moves what can be moved without waiting, and says whether anything was. After an error the
  // connection is of no more use: PermissionDenied (login), Unavailable, DataLoss (not Redis).
  absl::StatusOr<bool> Step();
  // Every command was sent whole and is answered.
  bool done() const { return !connecting_ && unsent_.empty() && awaited_.empty(); }
  // Of the commands queued since the last call, in their order, as far as they came.
  std::vector<RedisReply> TakeReplies();

  int fd() const;
  int16_t events() const;  // to poll for
  // Whether an unused connection still is as it was left.
  bool IsIdle() const;

 private:
  enum class Awaited { kLogin, kAsking, kCommand };

  RedisConnection(redisContext* context, const RedisReplyLimits& limits);
  void Append(std::string_view bytes);
  void AppendWords(std::span<const std::string> words);
  absl::StatusOr<bool> FinishConnecting();
  absl::StatusOr<bool> Write();
  absl::StatusOr<bool> Read();
  absl::Status Sort(RedisReply reply);

  redisContext* context_;
  RedisReplyReader reader_;
  bool connecting_ = true;
  std::deque<std::string> texts_;  // what is sent and is nobody else's
  std::deque<iovec> unsent_;       // into texts_ and commands
  std::deque<Awaited> awaited_;
  std::vector<RedisReply> replies_;
  const std::unique_ptr<char[]> buffer_;
};

// A connection with commands queued, and how it went.
struct RedisTurn {
  RedisConnection* connection = nullptr;
  // OK: every command is answered. DeadlineExceeded: the server was silent for too long. Cancelled:
  // it was not, but the deadline came. Else as Step() says.
  absl::Status status;
};

// Runs all turns at once until each is done or has failed.
void RunTurns(std::span<RedisTurn> turns, MonotonicTime deadline, MonotonicDuration silence_max);

}  // namespace chorale
