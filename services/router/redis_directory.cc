#include "services/router/redis_directory.h"

#include <algorithm>
#include <charconv>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "process/log.h"

namespace chorale {
namespace {

constexpr size_t kChangesPerBatch = 256;
constexpr size_t kKeysPerRound = 128;  // a chain is followed so far before it is seen to end
constexpr size_t kHoldersMax = 1024;   // of one block; more are not believed
constexpr size_t kAddressBytesMax = 512;
constexpr std::chrono::milliseconds kRetry{50};
constexpr char kMarkerPrefix[] = "chorale:marker:";

MonotonicTime Now() { return std::chrono::steady_clock::now(); }

std::string HolderKey(const std::string& holder) { return absl::StrCat("chorale:holder:", holder); }
std::string EntryKey(const BlockKey& key) { return absl::StrCat("chorale:at:", key.ToHex()); }

std::string Milliseconds(absl::Duration duration) {
  return absl::StrCat(absl::ToInt64Milliseconds(duration));
}

std::optional<uint64_t> ParseIncarnation(const std::string& text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return {};
  return value;
}

// What nobody else writes, for a marker.
std::string RandomWord() {
  std::random_device device;
  return absl::StrCat(absl::Hex(device(), absl::kZeroPad8), absl::Hex(device(), absl::kZeroPad8),
                      absl::Hex(device(), absl::kZeroPad8), absl::Hex(device(), absl::kZeroPad8));
}

// The holders in the reply to HGETALL, with their incarnations.
std::map<std::string, uint64_t> ParseEntry(const RedisReply& reply) {
  std::map<std::string, uint64_t> holders;
  for (size_t i = 0; i + 1 < reply.elements.size() && i < 2 * kHoldersMax; i += 2) {
    const std::string& holder = reply.elements[i].text;
    const std::optional<uint64_t> incarnation = ParseIncarnation(reply.elements[i + 1].text);
    if (!holder.empty() && holder.size() <= kAddressBytesMax && incarnation) {
      holders.emplace(holder, *incarnation);
    }
  }
  return holders;
}

// Whether a write is to be tried again: it was not answered, or refused for want of room.
bool IsPassing(const RedisReply& reply) {
  return reply.kind == RedisReply::Kind::kNone ||
         (reply.kind == RedisReply::Kind::kError &&
          StateOfRedisError(reply.text) != RedisState::kOk);
}

}  // namespace

RedisDirectory::RedisDirectory(Redis& redis, Options options)
    : redis_(redis),
      options_(std::move(options)),
      lost_pause_(absl::ToChronoNanoseconds(options_.lease)),
      refresh_next_(Now() + absl::ToChronoNanoseconds(options_.entry_ttl / 2)),
      thread_([this] { Run(); }) {}

RedisDirectory::~RedisDirectory() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void RedisDirectory::RenewLocked(const std::string& holder, uint64_t incarnation) {
  const MonotonicTime now = Now();
  Lease& lease = leases_[holder];
  lease.heard = now;
  const bool recent = !lease.gone && lease.incarnation == incarnation &&
                      now - lease.written < absl::ToChronoNanoseconds(options_.lease / 4);
  if (recent) return;
  lease.incarnation = incarnation;
  lease.due = true;
  lease.gone = false;
}

void RedisDirectory::Renew(const std::string& holder, uint64_t incarnation) {
  {
    std::lock_guard lock(mutex_);
    RenewLocked(holder, incarnation);
  }
  wake_.notify_one();
}

void RedisDirectory::Announce(const std::string& holder, uint64_t incarnation,
                              std::span<const BlockKey> added, std::span<const BlockKey> removed) {
  {
    std::lock_guard lock(mutex_);
    RenewLocked(holder, incarnation);
    const size_t more = added.size() + removed.size();
    if (changes_.size() + more > static_cast<size_t>(options_.keys_queued_max)) {
      // What is left would be a view with holes; a whole one follows when Redis takes it.
      counters_.dropped += static_cast<int64_t>(changes_.size() + more);
      changes_.clear();
      lost_ = true;
      overflowed_ = true;
    } else {
      for (const BlockKey& key : added) changes_.push_back({key, holder, incarnation, true});
      for (const BlockKey& key : removed) changes_.push_back({key, holder, incarnation, false});
    }
  }
  wake_.notify_one();
}

void RedisDirectory::Forget(const std::string& holder) {
  {
    std::lock_guard lock(mutex_);
    Lease& lease = leases_[holder];
    lease.heard = Now();
    lease.due = true;
    lease.gone = true;
    std::erase_if(changes_, [&](const Change& change) { return change.holder == holder; });
  }
  wake_.notify_one();
}

bool RedisDirectory::HasWork() const {
  return !changes_.empty() ||
         std::any_of(leases_.begin(), leases_.end(), [](const auto& l) { return l.second.due; });
}

void RedisDirectory::Run() {
  bool all_written = true;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      writing_ = false;
      if (!HasWork()) drained_.notify_all();
      // With work that Redis would not take, and to see what became of Redis, look again soon.
      if (all_written) {
        wake_.wait_for(lock, kRetry, [this] { return stopping_ || HasWork(); });
      } else {
        wake_.wait_for(lock, kRetry, [this] { return stopping_; });
      }
      if (stopping_) return;
      writing_ = true;
    }
    CheckMarkers();
    all_written = WriteLeases();
    all_written = WriteChanges() && all_written;
    CallOnLost();
  }
}

bool RedisDirectory::WriteLeases() {
  const MonotonicTime now = Now();
  std::vector<std::pair<std::string, Lease>> due;
  {
    std::lock_guard lock(mutex_);
    // Redis may have been away for long; who was not heard from since has no lease any more.
    std::erase_if(leases_, [&](const auto& row) {
      return now - row.second.heard > absl::ToChronoNanoseconds(options_.lease);
    });
    for (auto& [holder, lease] : leases_) {
      if (lease.due) due.emplace_back(holder, lease);
      lease.due = false;
    }
  }
  if (due.empty()) return true;
  std::vector<RedisCommand> commands;
  for (const auto& [holder, lease] : due) {
    RedisCommand command{.words = {lease.gone ? "DEL" : "SET", HolderKey(holder)}, .write = true};
    if (!lease.gone) {
      command.words.insert(command.words.end(),
                           {absl::StrCat(lease.incarnation), "PX", Milliseconds(options_.lease)});
    }
    commands.push_back(std::move(command));
  }
  const std::vector<RedisReply> replies = redis_.Execute(commands, 2 * redis_.options().timeout);
  bool all = true;
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < due.size(); ++i) {
    const auto place = leases_.find(due[i].first);
    if (place == leases_.end() || place->second.due) continue;  // there is news of it already
    Lease& lease = place->second;
    if (!replies[i].ok()) {
      lease.due = true;
      all = false;
    } else if (lease.gone) {
      leases_.erase(place);
    } else {
      lease.written = now;
    }
  }
  return all;
}

bool RedisDirectory::WriteChanges() {
  std::vector<Change> batch;
  {
    std::lock_guard lock(mutex_);
    const size_t count = std::min(changes_.size(), kChangesPerBatch);
    batch.assign(changes_.begin(), changes_.begin() + static_cast<std::ptrdiff_t>(count));
    changes_.erase(changes_.begin(), changes_.begin() + static_cast<std::ptrdiff_t>(count));
  }
  if (batch.empty()) return true;
  std::vector<RedisCommand> commands;  // two for each change
  for (const Change& change : batch) {
    std::string key = EntryKey(change.key);
    if (change.added) {
      commands.push_back(
          {.words = {"HSET", key, change.holder, absl::StrCat(change.incarnation)}, .write = true});
    } else {
      commands.push_back({.words = {"HDEL", key, change.holder}, .write = true});
    }
    commands.push_back(
        {.words = {"PEXPIRE", std::move(key), Milliseconds(options_.entry_ttl)}, .write = true});
  }
  const std::vector<RedisReply> replies = redis_.Execute(commands, 4 * redis_.options().timeout);
  bool all = true;
  std::lock_guard lock(mutex_);
  for (size_t i = batch.size(); i-- > 0;) {
    const RedisReply& reply = replies[2 * i];
    if (IsPassing(reply)) {
      all = false;
      changes_.push_front(std::move(batch[i]));  // in front of what came later
    } else {
      ++(reply.ok() ? counters_.written : counters_.dropped);
    }
  }
  return all;
}

void RedisDirectory::CheckMarkers() {
  const int64_t state_changes = redis_.counters().state_changes;
  if (state_changes == state_changes_ && Now() < markers_next_) return;
  std::vector<RedisCommand> commands;  // two for each marker
  for (const std::string& key : redis_.KeyOfEachServer(kMarkerPrefix)) {
    commands.push_back({.words = {"SET", key, RandomWord(), "NX"}, .write = true});
    commands.push_back({.words = {"GET", key}});
  }
  if (commands.empty()) return;
  const std::vector<RedisReply> replies = redis_.Execute(commands, 2 * redis_.options().timeout);
  bool emptied = false, all = true;
  for (size_t i = 1; i < replies.size(); i += 2) {
    if (!replies[i].ok()) all = false;
    if (!replies[i].is_text() || replies[i].text.empty()) continue;
    std::string& known = markers_[commands[i].words[1]];
    emptied = emptied || (!known.empty() && known != replies[i].text);
    known = replies[i].text;
  }
  if (all) {
    state_changes_ = state_changes;
    markers_next_ = Now() + absl::ToChronoNanoseconds(options_.lease / 3);
  }
  if (!emptied) return;
  LogWarning("redis: the directory of blocks was emptied; announcing all again");
  std::lock_guard lock(mutex_);
  lost_ = true;
}

void RedisDirectory::CallOnLost() {
  const MonotonicTime now = Now();
  const MonotonicDuration refresh = absl::ToChronoNanoseconds(options_.entry_ttl / 2);
  bool overflowed = false;
  {
    std::lock_guard lock(mutex_);
    if (now >= refresh_next_) lost_ = true;
    // Into a Redis that takes nothing it would be announced in vain.
    if (!lost_ || now < lost_next_ || redis_.state() != RedisState::kOk) return;
    lost_ = false;
    overflowed = std::exchange(overflowed_, false);
    ++counters_.losses;
    // Leases too are gone, or may be.
    for (auto& [holder, lease] : leases_) lease.due = true;
  }
  // All that is known may be more than the queue takes, every time.
  const MonotonicDuration lease = absl::ToChronoNanoseconds(options_.lease);
  lost_pause_ = overflowed ? std::min(2 * lost_pause_, refresh) : lease;
  lost_next_ = now + std::max(lost_pause_, lease);
  refresh_next_ = now + refresh;
  if (options_.on_lost) options_.on_lost();
}

std::vector<RedisHolding> RedisDirectory::Find(std::span<const BlockKey> keys,
                                               absl::Duration timeout) {
  const MonotonicTime deadline = Now() + absl::ToChronoNanoseconds(timeout);
  bool answered = true;
  std::vector<RedisHolding> holdings = FollowChain(keys, deadline, answered);
  KeepLiving(holdings, deadline, answered);
  std::sort(holdings.begin(), holdings.end(), [](const auto& a, const auto& b) {
    return a.blocks != b.blocks ? a.blocks > b.blocks : a.holder < b.holder;
  });
  std::lock_guard lock(mutex_);
  if (!holdings.empty()) {
    ++counters_.hits;
  } else if (answered) {
    ++counters_.misses;
  }
  if (!answered) ++counters_.failed;
  return holdings;
}

std::vector<RedisHolding> RedisDirectory::FollowChain(std::span<const BlockKey> keys,
                                                      MonotonicTime deadline, bool& answered) {
  std::vector<RedisHolding> holdings;
  for (size_t begin = 0; begin < keys.size(); begin += kKeysPerRound) {
    std::vector<RedisCommand> commands;
    for (const BlockKey& key : keys.subspan(begin, std::min(kKeysPerRound, keys.size() - begin))) {
      commands.push_back({.words = {"HGETALL", EntryKey(key)}});
    }
    const std::vector<RedisReply> replies =
        redis_.Execute(commands, absl::FromChrono(deadline - Now()));
    for (size_t i = 0; i < replies.size(); ++i) {
      if (!replies[i].ok()) {
        answered = false;
        return holdings;
      }
      const std::map<std::string, uint64_t> here = ParseEntry(replies[i]);
      if (begin + i == 0) {
        for (const auto& [holder, incarnation] : here) holdings.push_back({holder, incarnation, 0});
      }
      bool any = false;
      for (RedisHolding& holding : holdings) {
        const auto place = here.find(holding.holder);
        if (holding.blocks != static_cast<int>(begin + i) || place == here.end() ||
            place->second != holding.incarnation) {
          continue;
        }
        ++holding.blocks;
        any = true;
      }
      if (!any) return holdings;
    }
  }
  return holdings;
}

void RedisDirectory::KeepLiving(std::vector<RedisHolding>& holdings, MonotonicTime deadline,
                                bool& answered) {
  if (holdings.empty()) return;
  std::vector<RedisCommand> commands;
  for (const RedisHolding& holding : holdings) {
    commands.push_back({.words = {"GET", HolderKey(holding.holder)}});
  }
  const std::vector<RedisReply> replies =
      redis_.Execute(commands, absl::FromChrono(deadline - Now()));
  std::vector<RedisHolding> living;
  for (size_t i = 0; i < holdings.size(); ++i) {
    if (!replies[i].ok()) answered = false;
    if (replies[i].is_text() && ParseIncarnation(replies[i].text) == holdings[i].incarnation) {
      living.push_back(std::move(holdings[i]));
    }
  }
  holdings = std::move(living);
}

RedisDirectoryCounters RedisDirectory::counters() const {
  std::lock_guard lock(mutex_);
  RedisDirectoryCounters out = counters_;
  out.keys_queued = static_cast<int64_t>(changes_.size());
  return out;
}

bool RedisDirectory::Drain(absl::Duration timeout) {
  std::unique_lock lock(mutex_);
  return drained_.wait_for(lock, absl::ToChronoNanoseconds(timeout),
                           [this] { return !HasWork() && !writing_; });
}

}  // namespace chorale
