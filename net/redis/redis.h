// Redis: commands to a Redis server or cluster that may be slow, gone, flushed or full, without
// ever waiting for longer than told.
//
//   Execute -> server of the key -> a connection -> replies   (the caller's thread, a deadline)
//                     |    may it be asked?   no -> no reply, at once
//   keeper -----------+ asks those that may not be asked, resolves names, learns the cluster's map
//
// A server that fails is left alone for a growing pause and tried by the keeper only, so that a
// broken Redis costs its users one timeout and then nothing. Each change is logged once. Thread
// safe.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "net/redis/connection.h"
#include "net/redis/health.h"
#include "net/redis/servers.h"
#include "net/redis/url.h"

namespace chorale {

struct RedisOptions {
  RedisUrl url;
  // To connect, and how long a server may be silent while something is asked of it.
  absl::Duration timeout = absl::Milliseconds(50);
  absl::Duration pause_min = absl::Milliseconds(100);  // between tries of a server that failed
  absl::Duration pause_max = absl::Seconds(2);
  RedisReplyLimits limits;
};

// They only grow.
struct RedisCounters {
  int64_t commands = 0;       // sent
  int64_t skipped = 0;        // not sent, as the server could not be asked
  int64_t errors = 0;         // error replies, other than redirects
  int64_t timeouts = 0;       // commands that were given up
  int64_t lost = 0;           // commands whose connection broke
  int64_t redirects = 0;      // by a cluster
  int64_t state_changes = 0;  // of servers
};

class Redis {
 public:
  // Returns at once; the keeper connects.
  explicit Redis(RedisOptions options);
  // No call may be under way.
  ~Redis();

  // One reply to each command, in their order, all sent without waiting for one another; each names
  // its key as its second word. Replies that are not there within `timeout`, or that a server could
  // not be asked for, are kNone.
  std::vector<RedisReply> Execute(std::span<const RedisCommand> commands, absl::Duration timeout);

  // Whether it makes sense to try, by what is known now.
  bool MayRead(std::string_view key);
  bool MayWrite(std::string_view key);
  // For each server that has keys, one key with this prefix that it has.
  std::vector<std::string> KeyOfEachServer(std::string_view prefix) const;

  RedisState state() const { return servers_.state(); }
  // True as soon as the state is `state`.
  bool AwaitState(RedisState state, absl::Duration timeout);
  RedisCounters counters() const;
  const RedisOptions& options() const { return options_; }

 private:
  struct Errand;
  struct Visit;
  void Group(std::span<Errand*> errands, std::vector<Visit>& visits);
  void EndVisit(Visit& visit, const absl::Status& status, std::vector<Errand*>& redirected);
  bool Redirect(Errand& errand, const RedisServerPtr& server, const RedisReply& reply);
  void ReportFailure(const RedisServerPtr& server, const absl::Status& status);
  void Keep();
  void Probe(const RedisServerPtr& server);
  void Learn(const RedisServerPtr& server, const RedisReply& slots);
  void WantMap();

  const RedisOptions options_;
  RedisServers servers_;
  std::atomic<int64_t> commands_{0}, skipped_{0}, errors_{0}, timeouts_{0}, lost_{0}, redirects_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;    // under mutex_
  bool map_wanted_ = false;  // the cluster's map is not right any more; under mutex_
  std::thread keeper_;
};

}  // namespace chorale
