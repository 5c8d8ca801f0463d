#include "services/router/block_directory.h"

#include <algorithm>
#include <bitset>
#include <chrono>

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include "base/status_macros.h"
#include "chorale/v1/blocks.grpc.pb.h"
#include "process/log.h"
#include "rpc/blocks/convert_blocks.h"

namespace chorale {
namespace {

constexpr std::chrono::milliseconds kRetry{300};
constexpr absl::Duration kRedisTimeout = absl::Milliseconds(20);

}  // namespace

// One Blocks.Watch call. Keeps itself alive until OnDone; the directory outlives it.
class BlockDirectory::Watch : public grpc::ClientReadReactor<v1::BlockEvents> {
 public:
  Watch(BlockDirectory& directory, std::string address, uint64_t feed, uint64_t after)
      : directory_(directory),
        address_(std::move(address)),
        stub_(v1::Blocks::NewStub(directory.channels_->Get(address_))) {
    request_.set_feed(feed);
    request_.set_after_sequence(after);
  }

  static void Start(std::shared_ptr<Watch> watch) {
    watch->self_ = watch;
    watch->stub_->async()->Watch(&watch->context_, &watch->request_, watch.get());
    watch->StartRead(&watch->events_);
    watch->StartCall();
  }
  void Cancel() { context_.TryCancel(); }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (!directory_.Apply(address_, this, events_)) context_.TryCancel();
    StartRead(&events_);
  }
  void OnDone(const grpc::Status&) override {
    BlockDirectory& directory = directory_;
    const std::string address = address_;
    directory.Ended(address, std::move(self_));
  }

  BlockDirectory& directory_;
  const std::string address_;
  const std::unique_ptr<v1::Blocks::Stub> stub_;
  grpc::ClientContext context_;
  v1::WatchBlocksRequest request_;
  v1::BlockEvents events_;
  std::shared_ptr<Watch> self_;
};

BlockDirectory::BlockDirectory(std::shared_ptr<Channels> channels)
    : channels_(std::move(channels)) {}

absl::StatusOr<std::unique_ptr<BlockDirectory>> BlockDirectory::Create(
    std::shared_ptr<Channels> channels, const std::string& redis_url) {
  RedisOptions options;
  if (!redis_url.empty()) {
    ASSIGN_OR_RETURN(options.url, RedisUrl::Parse(redis_url));
  }
  std::unique_ptr<BlockDirectory> directory(new BlockDirectory(std::move(channels)));
  if (!redis_url.empty()) {
    directory->redis_ = std::make_unique<Redis>(std::move(options));
    directory->shared_ = std::make_unique<RedisDirectory>(
        *directory->redis_,
        RedisDirectory::Options{.on_lost = [d = directory.get()] { d->BeginAllAnew(); }});
  }
  directory->thread_ = std::thread([d = directory.get()] { d->Run(); });
  return directory;
}

BlockDirectory::~BlockDirectory() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
  {
    std::unique_lock lock(mutex_);
    for (auto& [address, holder] : holders_) {
      if (holder.watch != nullptr) holder.watch->Cancel();
    }
    all_ended_.wait(lock, [this] { return watches_live_ == 0; });
  }
  shared_.reset();  // nobody announces any more; its thread may still call us
}

void BlockDirectory::SetHolders(const std::vector<std::string>& addresses) {
  {
    std::lock_guard lock(mutex_);
    std::bitset<PrefixIndex::kHoldersMax> used;
    for (auto it = holders_.begin(); it != holders_.end();) {
      if (std::find(addresses.begin(), addresses.end(), it->first) != addresses.end()) {
        used.set(it->second.number);
        ++it;
        continue;
      }
      if (it->second.watch != nullptr) it->second.watch->Cancel();
      if (shared_ != nullptr) shared_->Forget(it->first);
      it = holders_.erase(it);  // its view takes its blocks out of the index
    }
    for (const std::string& address : addresses) {
      if (used.all()) break;
      if (holders_.contains(address)) continue;
      int number = 0;
      while (used.test(number)) ++number;
      used.set(number);
      holders_[address] = {.number = number, .view = std::make_unique<HolderView>(&index_, number)};
    }
  }
  wake_.notify_one();
}

// Begins the watches that are missing, again and again: a worker may be gone for a while.
void BlockDirectory::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    for (auto& [address, holder] : holders_) {
      if (holder.watch == nullptr) Begin(address, holder);
    }
    RenewLeases();
    wake_.wait_for(lock, kRetry);
  }
}

// Of the holders that are being listened to.
void BlockDirectory::RenewLeases() {
  if (shared_ == nullptr) return;
  for (const auto& [address, holder] : holders_) {
    if (holder.watch != nullptr && holder.feed != 0) shared_->Renew(address, holder.feed);
  }
}

// What a holder told, to the other routers.
void BlockDirectory::Announce(const std::string& address, const Holder& holder,
                              const BlockEventBatch& batch) {
  if (shared_ == nullptr) return;
  std::vector<BlockKey> added;
  std::vector<BlockKey> removed;
  for (const BlockEvent& event : batch.events) {
    (event.removed ? removed : added).push_back(event.key);
  }
  shared_->Announce(address, holder.feed, added, removed);
}

// Redis may have lost what it was told: every holder's snapshot is announced once more.
void BlockDirectory::BeginAllAnew() {
  std::lock_guard lock(mutex_);
  for (auto& [address, holder] : holders_) {
    holder.from_snapshot = true;
    if (holder.watch != nullptr) holder.watch->Cancel();
  }
}

void BlockDirectory::Begin(const std::string& address, Holder& holder) {
  const bool from_snapshot = std::exchange(holder.from_snapshot, false);
  const bool goes_on = holder.view->whole() && !from_snapshot;
  holder.watch =
      std::make_shared<Watch>(*this, address, goes_on ? holder.feed : 0, holder.view->sequence());
  ++watches_live_;
  Watch::Start(holder.watch);
}

bool BlockDirectory::Apply(const std::string& address, const Watch* watch,
                           const v1::BlockEvents& events) {
  const absl::StatusOr<BlockEventBatch> batch = FromProto(events);
  std::lock_guard lock(mutex_);
  const auto it = holders_.find(address);
  if (it == holders_.end() || it->second.watch.get() != watch) return false;
  Holder& holder = it->second;
  holder.feed = events.feed();
  if (batch.ok()) {
    Announce(address, holder, *batch);
    if (holder.view->Apply(*batch)) return true;
    if (batch->snapshot && !batch->snapshot_done) return true;  // more parts come
  }
  ++views_broken_;
  if (batch.ok()) {
    LogWarning("blocks of ", address, ": the view is not whole since event ",
               holder.view->unsure_since(), "; beginning anew");
  } else {
    LogWarning("blocks of ", address, ": ", batch.status().message(), "; beginning anew");
  }
  holder.feed = 0;
  return false;
}

// The watch lets go of gRPC before it counts as ended: the process may go right then.
void BlockDirectory::Ended(const std::string& address, std::shared_ptr<Watch> watch) {
  std::lock_guard lock(mutex_);
  const auto it = holders_.find(address);
  if (it != holders_.end() && it->second.watch == watch) it->second.watch = nullptr;
  watch.reset();
  if (--watches_live_ == 0) all_ended_.notify_all();
}

std::vector<BlockHolder> BlockDirectory::Find(std::span<const BlockKey> keys, int count) const {
  std::vector<BlockHolder> found = FindHere(keys, count);
  if (shared_ == nullptr || count == 0) return found;
  const int best = found.empty() ? 0 : found.front().blocks;
  if (best == static_cast<int>(keys.size())) return found;
  for (const RedisHolding& holding : shared_->Find(keys, kRedisTimeout)) {
    if (holding.blocks <= best) break;
    std::erase_if(found, [&](const BlockHolder& h) { return h.address == holding.holder; });
    found.insert(found.begin(), {holding.holder, holding.blocks});
    if (static_cast<int>(found.size()) > count) found.pop_back();
    break;
  }
  return found;
}

std::vector<BlockHolder> BlockDirectory::FindHere(std::span<const BlockKey> keys, int count) const {
  std::vector<BlockHolder> found;
  std::lock_guard lock(mutex_);
  const PrefixMatch match = index_.Find(keys);
  for (const PrefixMatch::Holder& holder : match.holders) {
    if (static_cast<int>(found.size()) == count) break;
    const auto at = std::find_if(holders_.begin(), holders_.end(), [&](const auto& entry) {
      return entry.second.number == holder.holder;
    });
    if (at == holders_.end()) continue;
    found.push_back({at->first, holder.blocks});
  }
  return found;
}

BlockDirectory::Stats BlockDirectory::stats() const {
  std::lock_guard lock(mutex_);
  Stats stats = {.holders = static_cast<int>(holders_.size()),
                 .bytes = index_.bytes(),
                 .views_broken = views_broken_};
  if (shared_ != nullptr) {
    stats.redis_state = RedisStateName(redis_->state());
    stats.redis = shared_->counters();
    stats.redis_commands = redis_->counters();
  }
  for (const auto& [address, holder] : holders_) {
    stats.holders_whole += holder.view->whole();
    stats.blocks += index_.blocks_of(holder.number);
  }
  return stats;
}

}  // namespace chorale
