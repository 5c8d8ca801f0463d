#include "services/worker/block_fetch.h"

#include <algorithm>
#include <atomic>
#include <utility>

#include "absl/time/clock.h"
#include "process/log.h"
#include "rpc/blocks/convert_blocks.h"
#include "rpc/blocks/kv_pull.h"
#include "rpc/raw_message.h"

namespace chorale {
namespace {

constexpr char kPullMethod[] = "/chorale.v1.Blocks/Pull";
constexpr char kRunMethod[] = "/chorale.v1.Prefill/Run";
// How long the stores may take to say what they have.
constexpr absl::Duration kLookupTimeout = absl::Milliseconds(50);
// A pull from one address is spread over several connections from so many bytes on.
constexpr int64_t kSpreadBytes = 8 << 20;
// What computing a block is taken for before anything was computed.
constexpr absl::Duration kComputeUnknown = absl::Milliseconds(100);
constexpr absl::Duration kPullTimeMin = absl::Milliseconds(500);
constexpr int kPatience = 4;

}  // namespace

// One fetch. What has no mutex belongs to the engine's thread.
class BlockFetcher::Fetch : public std::enable_shared_from_this<Fetch> {
 public:
  Fetch(BlockFetcher& fetcher, const NeedBlocksEvent& need, FetchSources sources)
      : fetcher_(fetcher),
        regions_(fetcher.regions_),
        host_(fetcher.worker_.host()),
        id_(need.id),
        format_(fetcher.worker_.format()),
        need_(need),
        sources_(std::move(sources)) {
    format_.set_writer(std::string(need.writer.AsBytes()));
  }

  void Start() {
    for (const BlockHolder& holder : sources_.holders) {
      StoreClient::Part part = {.address = holder.address};
      const int end = std::min(holder.blocks, need_.blocks);
      for (int i = need_.first_block; i < end; ++i) part.places.push_back(i);
      if (!part.places.empty()) candidates_.push_back({.end = end, .parts = {std::move(part)}});
    }
    // Of the blocks that are missing; an open one is in no store.
    const int full = need_.tokens / kernels::kBlockTokens - need_.first_block;
    if (!fetcher_.MayAskStores(sources_) || full <= 0) return Next();
    fetcher_.stores_->Lookup({need_.keys.begin(), need_.keys.begin() + full}, kLookupTimeout,
                             [self = shared_from_this()](auto found) {
                               self->host_->Post([self, found = std::move(found)](Engine&) mutable {
                                 self->OnStores(std::move(found));
                                 self->Next();
                               });
                             });
  }

  void Cancel() {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
    for (const auto& call : calls_) call->Cancel();
  }

 private:
  // Somebody who has the blocks up to `end`.
  struct Candidate {
    int end = 0;
    std::vector<StoreClient::Part> parts;
  };

  // One call that brings blocks: the k-th that it sends is block places[k] of the prompt.
  struct Stream {
    std::string address;
    std::vector<int> places;
    bool is_pull = true;
    uint64_t epoch = 0;
    std::shared_ptr<const MappedRegion> region;
    absl::Time begin = absl::Now();
    std::shared_ptr<KvPull> call;
    int taken = 0;
  };

  bool Cancelled() {
    std::lock_guard lock(mutex_);
    return cancelled_;
  }

  void OnStores(StoreClient::Found found) {
    if (found.blocks == 0) return;
    for (StoreClient::Part& part : found.parts) {
      for (int& place : part.places) place += need_.first_block;
    }
    candidates_.push_back(
        {.end = need_.first_block + found.blocks, .parts = std::move(found.parts)});
  }

  int64_t BytesOf(int blocks) const {
    return blocks * fetcher_.worker_.base().kv_shape().block_bytes();
  }

  absl::Duration TimeToPull(const Candidate& candidate) const {
    absl::Duration longest;
    for (const StoreClient::Part& part : candidate.parts) {
      longest = std::max(longest, fetcher_.rates_.Estimate(
                                      part.address, BytesOf(static_cast<int>(part.places.size()))));
    }
    return longest;
  }

  absl::Duration TimeToCompute(const Candidate& candidate) const {
    const int blocks = candidate.end - need_.first_block;
    const double token_us = host_->prompt_token_us();
    // Nothing was computed here yet: then computing is what is to be saved.
    if (token_us == 0) return blocks * kComputeUnknown;
    return absl::Microseconds(token_us * blocks * kernels::kBlockTokens);
  }

  // How much sooner the blocks are here when they are pulled.
  absl::Duration Saves(const Candidate& candidate) const {
    return TimeToCompute(candidate) - TimeToPull(candidate);
  }

  // The next source, or the end.
  void Next() {
    if (Cancelled()) return End();
    std::erase_if(candidates_, [this](const Candidate& c) { return c.end <= need_.first_block; });
    const auto best = std::max_element(
        candidates_.begin(), candidates_.end(),
        [this](const Candidate& a, const Candidate& b) { return Saves(a) < Saves(b); });
    if (best != candidates_.end()) {
      const Candidate chosen = std::move(*best);
      candidates_.erase(best);
      if (Saves(chosen) > absl::ZeroDuration()) return Pull(chosen);
      candidates_.clear();
      std::lock_guard lock(fetcher_.mutex_);
      ++fetcher_.stats_.pulls_declined;
    }
    const int missing = need_.tokens - need_.first_block * kernels::kBlockTokens;
    if (sources_.prefill_address.empty() || missing <= fetcher_.options_.local_prefill_tokens) {
      return End();
    }
    Run();
  }

  void End() {
    host_->Post([id = id_](Engine& engine) { engine.EndDelivery(id); });
  }

  void Pull(const Candidate& candidate) {
    std::vector<std::shared_ptr<Stream>> streams;
    for (const StoreClient::Part& part : candidate.parts) {
      std::vector<int> places = part.places;
      std::erase_if(places, [this](int place) { return place < need_.first_block; });
      const int count = static_cast<int>(places.size());
      const int split =
          BytesOf(count) < kSpreadBytes ? 1 : std::clamp(fetcher_.options_.channels, 1, count);
      for (int i = 0; i < split; ++i) {
        auto stream = std::make_shared<Stream>();
        stream->address = part.address;
        stream->places.assign(places.begin() + count * i / split,
                              places.begin() + count * (i + 1) / split);
        if (!stream->places.empty()) streams.push_back(std::move(stream));
      }
    }
    streams_open_ = static_cast<int>(streams.size());
    if (streams.empty()) return Next();
    // A peer that takes much longer than it should is given up: computing is surer.
    const absl::Time give_up =
        absl::Now() + std::max(kPullTimeMin, kPatience * TimeToPull(candidate));
    int channel = 0;
    for (const auto& stream : streams) {
      v1::PullMessage message;
      v1::PullRequest& request = *message.mutable_pull();
      for (int place : stream->places) {
        request.add_keys(std::string(need_.keys[place - need_.first_block].AsBytes()));
      }
      *request.mutable_format() = format_;
      stream->region = regions_->Find(stream->address);
      if (stream->region != nullptr) request.set_shared_region(stream->region->address());
      Open(stream, kPullMethod, SerializeMessage(message), channel++ % fetcher_.options_.channels,
           std::min(give_up, sources_.deadline));
    }
    std::lock_guard lock(fetcher_.mutex_);
    fetcher_.stats_.pulls += static_cast<int64_t>(streams.size());
  }

  void Run() {
    auto stream = std::make_shared<Stream>();
    stream->address = std::exchange(sources_.prefill_address, "");
    stream->is_pull = false;
    for (int i = need_.first_block; i < need_.blocks; ++i) stream->places.push_back(i);
    v1::PrefillMessage message;
    v1::PrefillRequest& request = *message.mutable_run();
    request.set_model(sources_.model);
    request.mutable_tokens()->Assign(sources_.tokens.begin(), sources_.tokens.end());
    request.set_tenant_salt(sources_.scope.tenant_salt);
    request.set_public_tokens(sources_.scope.public_tokens);
    request.set_no_prefix_reuse(!sources_.reuse_prefix);
    if (sources_.reuse_prefix) HoldersToProto(sources_.holders, *request.mutable_holders());
    request.set_first_block(need_.first_block);
    *request.mutable_format() = format_;
    stream->region = regions_->Find(stream->address);
    if (stream->region != nullptr) request.set_shared_region(stream->region->address());
    streams_open_ = 1;
    Open(stream, kRunMethod, SerializeMessage(message), 0, sources_.deadline);
  }

  void Open(const std::shared_ptr<Stream>& stream, const char* method, grpc::ByteBuffer request,
            int channel, absl::Time deadline) {
    stream->epoch = need_.epoch;
    auto self = shared_from_this();
    stream->call = KvPull::Start(
        {.channel = fetcher_.channels_.Get(stream->address, channel),
         .method = method,
         .request = std::move(request),
         .deadline = deadline,
         .on_frame = [self, stream](auto frame) { self->OnFrame(stream, std::move(frame)); },
         .on_done = [self, stream](const absl::Status& status) { self->OnDone(stream, status); }});
    std::lock_guard lock(mutex_);
    calls_.push_back(stream->call);
    if (cancelled_) stream->call->Cancel();
  }

  // On a thread of gRPC's.
  void OnFrame(const std::shared_ptr<Stream>& stream, std::shared_ptr<const DecodedKvFrame> frame) {
    if (!frame->header.shared_region().empty()) {
      regions_->Learn(stream->address, frame->header.shared_region());
    }
    host_->Post([self = shared_from_this(), stream, frame = std::move(frame)](Engine& engine) {
      self->Deliver(engine, *stream, *frame);
    });
  }

  void Deliver(Engine& engine, Stream& stream, const DecodedKvFrame& frame) {
    int64_t shared = 0;
    PieceCursor cursor(frame);
    for (PieceCursor::Run run; cursor.Next(run);) {
      // A pull's blocks are counted within the pull, a prefill worker's from the prompt's start.
      int index = run.index;
      if (stream.is_pull) {
        if (index < 0 || index >= static_cast<int>(stream.places.size())) continue;
        index = stream.places[index];
      }
      std::span<const std::byte> bytes = run.bytes;
      if (run.shared_offset) {
        absl::StatusOr<std::span<const std::byte>> at =
            stream.region == nullptr ? absl::FailedPreconditionError("no region is mapped")
                                     : stream.region->At(*run.shared_offset, run.shared_bytes);
        if (!at.ok()) {
          LogWarning("block from ", stream.address, ": ", at.status().message());
          continue;
        }
        bytes = *at;
        ++shared;
      }
      engine.DeliverPiece(id_, stream.epoch, index, bytes);
      if (!run.end) continue;
      ++stream.taken;
      const absl::Status status =
          engine.CompleteBlock(id_, stream.epoch, index, run.end->key, run.end->checksum);
      if (!status.ok()) LogWarning("block from ", stream.address, ": ", status.message());
    }
    if (shared > 0) stream.call->Acknowledge(stream.taken);
    std::lock_guard lock(fetcher_.mutex_);
    fetcher_.stats_.blocks_shared += shared;
  }

  // On a thread of gRPC's; the last frame has been let go.
  void OnDone(const std::shared_ptr<Stream>& stream, const absl::Status& status) {
    host_->Post([self = shared_from_this(), stream, status](Engine& engine) {
      self->Settle(*stream, status);
      if (--self->streams_open_ > 0) return;
      {
        std::lock_guard lock(self->mutex_);
        self->calls_.clear();
      }
      std::optional<NeedBlocksEvent> need = engine.NextDelivery(self->id_);
      if (!need) return;  // the request has ended
      self->need_ = *std::move(need);
      self->Next();
    });
  }

  void Settle(const Stream& stream, const absl::Status& status) {
    if (!status.ok() && !absl::IsCancelled(status)) {
      LogWarning(stream.is_pull ? "blocks of " : "prefill worker ", stream.address, ": ",
                 status.message(), "; computing what is missing");
    }
    if (!stream.is_pull) return;
    {
      std::lock_guard lock(fetcher_.mutex_);
      fetcher_.stats_.blocks_pulled += stream.taken;
      fetcher_.stats_.pulls_failed += !status.ok();
    }
    if (status.ok()) {
      fetcher_.rates_.Note(stream.address, BytesOf(stream.taken), absl::Now() - stream.begin);
    } else if (!absl::IsCancelled(status)) {
      fetcher_.rates_.NoteFailure(stream.address);
      regions_->Forget(stream.address);
      if (fetcher_.stores_ != nullptr) fetcher_.stores_->NoteFailure(stream.address);
    }
  }

  BlockFetcher& fetcher_;  // on the engine's thread only, which it outlives
  const std::shared_ptr<RegionCache> regions_;
  const std::shared_ptr<EngineHost> host_;
  const RequestId id_;
  v1::KvFormat format_;
  NeedBlocksEvent need_;
  FetchSources sources_;
  std::vector<Candidate> candidates_;
  int streams_open_ = 0;
  std::mutex mutex_;
  std::vector<std::shared_ptr<KvPull>> calls_;  // under way; under mutex_
  bool cancelled_ = false;                      // under mutex_
};

BlockFetcher::BlockFetcher(const BlockFetcherOptions& options, Worker& worker, Channels& channels,
                           StoreClient* stores)
    : options_(options), worker_(worker), channels_(channels), stores_(stores) {}

bool BlockFetcher::MayAskStores(const FetchSources& sources) const {
  return stores_ != nullptr && sources.reuse_prefix;
}

bool BlockFetcher::CanFetch(const FetchSources& sources) const {
  return MayAskStores(sources) || !sources.holders.empty() || !sources.prefill_address.empty();
}

std::function<void()> BlockFetcher::Start(const NeedBlocksEvent& need, FetchSources sources) {
  auto fetch = std::make_shared<Fetch>(*this, need, std::move(sources));
  fetch->Start();
  return [fetch] { fetch->Cancel(); };
}

BlockFetcher::Stats BlockFetcher::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace chorale
