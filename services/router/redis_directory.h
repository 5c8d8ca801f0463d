// RedisDirectory: which worker or store has which blocks, shared by all routers of a team.
//
//   chorale:holder:<address>    its incarnation, for as long as its lease lasts
//   chorale:at:<key>            address -> incarnation of each that has the block
//   chorale:marker:{n}          a random word on each server; another one, and Redis was emptied
//
// An entry counts only while the lease of its holder is live and names the same incarnation: a
// holder that is gone, or came back empty, has no blocks, whatever is written. Who finds an entry
// that is not true any more asks the holder and gets a miss; it costs a call, never a wrong block.
//
// Announcements are facts and may be told twice, so several routers may watch the same holder. They
// are queued and written by a thread of the directory. Thread safe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "cache/block_key.h"
#include "net/redis/redis.h"

namespace chorale {

struct RedisHolding {
  std::string holder;  // its address
  uint64_t incarnation = 0;
  int blocks = 0;  // leading keys that it has
};

// All but keys_queued only grow.
struct RedisDirectoryCounters {
  int64_t hits = 0;     // searches that found a holder
  int64_t misses = 0;   // that found none
  int64_t failed = 0;   // that Redis did not answer, at least in part
  int64_t written = 0;  // changes of entries
  int64_t dropped = 0;  // changes that found no room or were refused
  int64_t losses = 0;   // times on_lost was called
  int64_t keys_queued = 0;
};

class RedisDirectory {
 public:
  struct Options {
    absl::Duration lease = absl::Seconds(10);
    absl::Duration entry_ttl = absl::Hours(1);
    int keys_queued_max = 1 << 20;
    // What Redis holds may not be what was announced: it was emptied, or changes were dropped, or
    // half of entry_ttl is over. The owner is to announce all it knows. Called by the directory's
    // thread, at most once per lease, more and more seldom while that overflows the queue, with no
    // lock held; it must not block.
    std::function<void()> on_lost;
  };
  // `redis` must outlive the directory.
  RedisDirectory(Redis& redis, Options options);
  ~RedisDirectory();

  // The holder was heard from. To be called every third of a lease, or there will be none.
  void Renew(const std::string& holder, uint64_t incarnation);
  // The holder has `added` now and `removed` no more; renews its lease too.
  void Announce(const std::string& holder, uint64_t incarnation, std::span<const BlockKey> added,
                std::span<const BlockKey> removed);
  // The holder is gone; its lease ends and what is queued about it is forgotten.
  void Forget(const std::string& holder);

  // Who has the first of `keys`, and how many of them from there on; most first. What Redis does
  // not answer within `timeout` counts as not there.
  std::vector<RedisHolding> Find(std::span<const BlockKey> keys, absl::Duration timeout);

  RedisDirectoryCounters counters() const;
  // Waits until all that is queued is written, or dropped.
  bool Drain(absl::Duration timeout);

 private:
  struct Change {
    BlockKey key;
    std::string holder;
    uint64_t incarnation = 0;
    bool added = false;
  };
  struct Lease {
    uint64_t incarnation = 0;
    bool due = false;       // to be written
    bool gone = false;      // to be deleted
    MonotonicTime heard{};  // when the owner last said so
    MonotonicTime written{};
  };
  void RenewLocked(const std::string& holder, uint64_t incarnation);
  bool HasWork() const;  // under mutex_
  void Run();
  bool WriteLeases();
  bool WriteChanges();
  void CheckMarkers();
  void CallOnLost();
  std::vector<RedisHolding> FollowChain(std::span<const BlockKey> keys, MonotonicTime deadline,
                                        bool& answered);
  void KeepLiving(std::vector<RedisHolding>& holdings, MonotonicTime deadline, bool& answered);

  Redis& redis_;
  const Options options_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable drained_;
  std::map<std::string, Lease> leases_;  // by holder; under mutex_
  std::deque<Change> changes_;           // under mutex_
  bool writing_ = false;                 // changes are on their way; under mutex_
  bool lost_ = false;                    // on_lost is to be called; under mutex_
  bool overflowed_ = false;              // since on_lost was called; under mutex_
  bool stopping_ = false;                // under mutex_
  RedisDirectoryCounters counters_;      // under mutex_
  // Only the thread's:
  std::map<std::string, std::string> markers_;
  int64_t state_changes_ = -1;  // of Redis when the markers were read
  MonotonicTime markers_next_{};
  MonotonicTime lost_next_{};  // not before
  MonotonicDuration lost_pause_{};
  MonotonicTime refresh_next_{};
  std::thread thread_;
};

}  // namespace chorale
