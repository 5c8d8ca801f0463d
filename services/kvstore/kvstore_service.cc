#include "services/kvstore/kvstore_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "rpc/blocks/convert_blocks.h"
#include "rpc/limits.h"
#include "rpc/raw_message.h"
#include "rpc/status.h"
#include "services/kvstore/push_call.h"

namespace chorale {
namespace {

constexpr size_t kKeysMax = 1 << 16;
constexpr size_t kWorkMax = 1 << 14;
constexpr int kLookupThreads = 2;
constexpr int kListDefault = 1000;
constexpr int kListMax = 1 << 20;
constexpr int kListOfMessage = 4096;
// Events are told, and leases looked at, so often; and at least so often.
constexpr absl::Duration kPause = absl::Milliseconds(20);
constexpr absl::Duration kWait = absl::Milliseconds(100);

grpc::Status TooBusy() {
  return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED,
                      "the store has too many calls; ask again later");
}

absl::Status CheckTier(const std::string& tier) {
  if (tier.empty() || tier == "dram" || tier == "disk") return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("field 'tier': '%s', expected 'dram', 'disk' or nothing for both", tier));
}

}  // namespace

KvstoreService::KvstoreService(BlockStore& store, Options options)
    : store_(store),
      options_(std::move(options)),
      housekeeper_([this] { KeepHouse(); }),
      lookups_(kLookupThreads, kWorkMax),
      pool_(options_.threads, kWorkMax) {}

KvstoreService::~KvstoreService() { Stop(); }

void KvstoreService::SetId(const std::string& id) {
  std::lock_guard lock(mutex_);
  id_ = id;
}

void KvstoreService::Stop() {
  if (stopping_.exchange(true)) return;
  housekeeper_.join();
  feed_.Close();
}

void KvstoreService::KeepHouse() {
  while (!stopping_) {
    feed_.Append(store_.TakeEvents(kWait));
    const absl::Time now = absl::Now();
    std::vector<std::weak_ptr<PullCall>> calls;
    {
      std::lock_guard lock(mutex_);
      calls.swap(calls_);
    }
    std::erase_if(calls, [&](const std::weak_ptr<PullCall>& weak) {
      const std::shared_ptr<PullCall> call = weak.lock();
      return call == nullptr || !call->CheckLease(now, options_.lease);
    });
    {
      std::lock_guard lock(mutex_);
      calls_.insert(calls_.end(), calls.begin(), calls.end());
    }
    absl::SleepFor(kPause);  // events gather meanwhile
  }
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* KvstoreService::Pull(
    grpc::CallbackServerContext* context) {
  auto stream = BlockStream::Create();
  stream->SetContext(context);
  ServeBlockCall(stream,
                 [this](const std::shared_ptr<BlockStream>& stream,
                        const grpc::ByteBuffer& first) -> absl::StatusOr<AcknowledgeFn> {
                   ASSIGN_OR_RETURN(const std::shared_ptr<PullCall> call, StartPull(stream, first));
                   return [call](int blocks_taken) { call->Acknowledge(blocks_taken); };
                 });
  return stream.get();
}

absl::StatusOr<std::shared_ptr<PullCall>> KvstoreService::StartPull(
    const std::shared_ptr<BlockStream>& stream, const grpc::ByteBuffer& bytes) {
  ASSIGN_OR_RETURN(const v1::PullMessage message, ParseMessage<v1::PullMessage>(bytes));
  if (!message.has_pull()) {
    return absl::InvalidArgumentError("field 'pull': missing from the call's first message");
  }
  const v1::PullRequest& pull = message.pull();
  PullCall::Request request = {
      .region = options_.region,
      .by_reference = !options_.region.empty() && pull.shared_region() == options_.region};
  ASSIGN_OR_RETURN(request.keys, KeysFromProto(pull.keys(), kKeysMax));
  // Only what is pushed makes a format known, or Redis, which may have what is not known here yet.
  request.format_text = TextOfFormat(pull.format());
  if (const auto known = store_.formats().Find(request.format_text)) {
    request.format = *known;
  } else if (store_.has_backing()) {
    ASSIGN_OR_RETURN(request.format, store_.formats().NumberOf(request.format_text));
  }
  auto call = std::make_shared<PullCall>(store_, pool_, stream, std::move(request));
  {
    std::lock_guard lock(mutex_);
    calls_.push_back(call);
  }
  call->Start();
  return call;
}

grpc::ServerReadReactor<grpc::ByteBuffer>* KvstoreService::Push(grpc::CallbackServerContext*,
                                                                grpc::ByteBuffer* reply) {
  return StartPushCall(store_, pool_, reply);
}

grpc::ServerUnaryReactor* KvstoreService::Lookup(grpc::CallbackServerContext* context,
                                                 const v1::LookupRequest* request,
                                                 v1::LookupReply* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  absl::StatusOr<std::vector<BlockKey>> keys = KeysFromProto(request->keys(), kKeysMax);
  if (!keys.ok()) {
    reactor->Finish(ToGrpc(keys.status()));
    return reactor;
  }
  // Redis may be asked, and slow: not on the threads of pulls.
  const bool posted = lookups_.Post([this, reactor, reply, keys = *std::move(keys)] {
    reply->set_blocks(store_.Lookup(keys));
    reactor->Finish(grpc::Status::OK);
  });
  if (!posted) reactor->Finish(TooBusy());
  return reactor;
}

grpc::ServerWriteReactor<v1::BlockEvents>* KvstoreService::Watch(
    grpc::CallbackServerContext* context, const v1::WatchBlocksRequest* request) {
  return feed_.Watch(context, *request);
}

grpc::ServerWriteReactor<v1::BlockList>* KvstoreService::List(
    grpc::CallbackServerContext*, const v1::ListBlocksRequest* request) {
  auto stream = ServerStream<v1::BlockList>::Create();
  if (absl::Status status = CheckTier(request->tier()); !status.ok()) {
    stream->End(ToGrpc(status));
    return stream.get();
  }
  const int limit = request->limit() > 0 ? std::min(request->limit(), kListMax) : kListDefault;
  const bool posted =
      pool_.Post([this, stream, limit, tier = request->tier(), prefix = request->key_prefix()] {
        v1::BlockList list;
        int listed = 0;
        store_.List(tier, [&](const BlockListing& block) {
          if (!absl::StartsWith(block.key.ToHex(), prefix)) return true;
          v1::BlockInfo* info = list.add_blocks();
          info->set_key(std::string(block.key.AsBytes()));
          info->set_tier(block.tier);
          info->set_bytes(block.bytes);
          info->set_index(block.index);
          info->set_holds(block.holds);
          info->set_age_seconds(absl::ToDoubleSeconds(block.age));
          if (list.blocks_size() == kListOfMessage) stream->Push(std::exchange(list, {}), 0);
          return ++listed < limit;
        });
        if (list.blocks_size() > 0) stream->Push(std::move(list), 0);
        stream->End(grpc::Status::OK);
      });
  if (!posted) stream->End(TooBusy());
  return stream.get();
}

grpc::ServerUnaryReactor* KvstoreService::Stat(grpc::CallbackServerContext* context,
                                               const v1::StatBlocksRequest*,
                                               v1::StatBlocksReply* reply) {
  *reply = Describe();
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

v1::StatBlocksReply KvstoreService::Describe() {
  v1::StatBlocksReply reply;
  {
    std::lock_guard lock(mutex_);
    reply.set_id(id_);
  }
  feed_.Describe(reply);
  for (const TierStat& stat : store_.Stat()) {
    v1::TierStat& tier = *reply.add_tiers();
    tier.set_tier(stat.tier);
    tier.set_blocks(stat.blocks);
    tier.set_bytes(stat.bytes);
    tier.set_bytes_max(stat.bytes_max);
    tier.set_holds(stat.holds);
    tier.set_state(stat.state);
    for (const auto& [name, value] : stat.counters) (*tier.mutable_counters())[name] = value;
  }
  return reply;
}

grpc::ServerUnaryReactor* KvstoreService::Evict(grpc::CallbackServerContext* context,
                                                const v1::EvictBlocksRequest* request,
                                                v1::EvictBlocksReply* reply) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (absl::Status status = CheckTier(request->tier()); !status.ok()) {
    reactor->Finish(ToGrpc(status));
    return reactor;
  }
  const bool posted = pool_.Post([this, reactor, request, reply] {
    const BlockStore::Dropped dropped = store_.Evict(request->tier(), request->key_prefix());
    reply->set_blocks(dropped.blocks);
    reply->set_bytes(dropped.bytes);
    reactor->Finish(grpc::Status::OK);
  });
  if (!posted) reactor->Finish(TooBusy());
  return reactor;
}

grpc::Status KvstoreService::Verify(grpc::ServerContext* context,
                                    const v1::VerifyBlocksRequest* request,
                                    grpc::ServerWriter<v1::VerifyProgress>* writer) {
  if (absl::Status status = CheckTier(request->tier()); !status.ok()) return ToGrpc(status);
  const auto write = [&](const BlockStore::Verified& verified) {
    v1::VerifyProgress progress;
    progress.set_blocks_done(verified.done);
    progress.set_blocks_total(verified.total);
    progress.set_blocks_bad(verified.bad);
    return !context->IsCancelled() && writer->Write(progress);
  };
  const BlockStore::Verified verified = store_.Verify(request->tier(), write);
  return write(verified) ? grpc::Status::OK : grpc::Status::CANCELLED;
}

}  // namespace chorale
