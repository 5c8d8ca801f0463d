// RedisServers: the servers of one Redis, alone or a cluster: which has a key, how each of them is,
// and their connections that nobody uses at the moment.
//
// Of a single server the table has one row that has every key. At first it has the servers of the
// URL and none of them has a key, until one of them has said what it is. Thread safe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "net/redis/connection.h"
#include "net/redis/health.h"
#include "net/redis/slots.h"
#include "net/redis/url.h"

namespace chorale {

// A row; only RedisServers looks into it. Shared with commands under way, because a row may leave
// the table meanwhile.
class RedisServer {
 public:
  const RedisAddress& address() const { return address_; }

 private:
  friend class RedisServers;
  RedisServer(RedisAddress address, const RedisHealth& health);

  const RedisAddress address_;
  // All below under RedisServers::mutex_.
  std::string number_;  // what the host's name came to; empty: not known yet
  RedisHealth health_;
  std::vector<std::unique_ptr<RedisConnection>> idle_;
};
using RedisServerPtr = std::shared_ptr<RedisServer>;

class RedisServers {
 public:
  struct Options {
    RedisUrl url;
    RedisHealth::Options health;
    RedisReplyLimits limits;
    int idle_connections_max = 8;  // of one server
    int servers_max = 1024;
  };
  explicit RedisServers(Options options);

  // Which server has the key; null: not known.
  RedisServerPtr OfKey(std::string_view key) const;
  // The server there, entered when it is new; null: there are too many already.
  RedisServerPtr OfAddress(const RedisAddress& address);
  // One of those that have keys, in a fixed order, each with the first of prefix{0}, prefix{1}, ...
  // that it has. Empty while nothing is known.
  std::vector<std::string> KeyOfEachServer(std::string_view prefix) const;

  // What the servers say of themselves. A slot that a redirect speaks of moves alone.
  void BecomeSingle(const RedisServerPtr& server);
  void BecomeCluster(std::span<const RedisSlotRange> ranges);
  void MoveSlot(int slot, const RedisServerPtr& server);
  bool IsCluster() const;

  // An idle connection or a new one; never waits, so a host name must be resolved already.
  absl::StatusOr<std::unique_ptr<RedisConnection>> Connect(const RedisServerPtr& server,
                                                           bool fresh);
  void Return(const RedisServerPtr& server, std::unique_ptr<RedisConnection> connection);
  // Asks the system for the host's number; may take as long as that takes.
  absl::Status Resolve(const RedisServerPtr& server);

  // Whether the server may be asked now; with `start`, a write that is only a try counts as made.
  bool Admits(const RedisServerPtr& server, bool write, bool start);
  void OnAnswer(const RedisServerPtr& server, bool write);
  void OnFailure(const RedisServerPtr& server, RedisState state, std::string_view why);
  void OnImpatience(const RedisServerPtr& server);

  // Servers that nobody but a prober may ask, and whose time has come. When no server can be asked
  // at all, those of the URL are entered again.
  std::vector<RedisServerPtr> DueForProbe();
  // Any that can be asked; null when there is none.
  RedisServerPtr AnyGood() const;

  // Of the worst server.
  RedisState state() const;
  bool AwaitState(RedisState state, MonotonicDuration timeout);
  int64_t state_changes() const;

 private:
  RedisServerPtr Enter(const RedisAddress& address);  // under mutex_
  RedisState WorstState() const;                      // under mutex_
  template <typename Change>
  void ChangeHealth(const RedisServerPtr& server, std::string_view why, Change change);

  const Options options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<RedisAddress, RedisServerPtr> servers_;  // under mutex_
  std::vector<RedisServerPtr> slots_;               // of a cluster: by slot; under mutex_
  RedisServerPtr single_;                           // under mutex_
  MonotonicTime reenter_next_{};                    // the servers of the URL; under mutex_
  int64_t state_changes_ = 0;                       // under mutex_
};

}  // namespace chorale
