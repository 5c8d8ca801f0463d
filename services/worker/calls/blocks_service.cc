#include "services/worker/calls/blocks_service.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "rpc/blocks/convert_blocks.h"
#include "rpc/status.h"
#include "services/worker/calls/pull_call.h"

namespace chorale {
namespace {

constexpr char kTier[] = "pool";
constexpr int kListDefault = 1000;
constexpr int kListMax = 1 << 20;
constexpr int kListOfMessage = 4096;
constexpr int kVerifyAtOnce = 64;  // blocks between two steps of the engine

grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

absl::Status CheckTier(const std::string& tier) {
  if (tier.empty() || tier == kTier) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("field 'tier': '%s', a worker has only '%s'", tier, kTier));
}

absl::Status ShuttingDown() { return absl::UnavailableError("the worker is shutting down"); }

}  // namespace

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* BlocksService::Pull(
    grpc::CallbackServerContext* context) {
  auto stream = BlockStream::Create();
  stream->SetContext(context);
  StartPullCall(worker_, stream);
  return stream.get();
}

grpc::ServerUnaryReactor* BlocksService::Lookup(grpc::CallbackServerContext* context,
                                                const v1::LookupRequest* request,
                                                v1::LookupReply* reply) {
  if (absl::Status ready = worker_.CheckReady(); !ready.ok()) return Finish(context, ready);
  absl::StatusOr<std::vector<BlockKey>> keys = KeysFromProto(request->keys());
  if (!keys.ok()) return Finish(context, keys.status());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const bool posted =
      worker_.host()->Post([reactor, reply, keys = *std::move(keys)](Engine& engine) {
        reply->set_blocks(engine.MatchPrefix(keys));
        reactor->Finish(grpc::Status::OK);
      });
  if (!posted) reactor->Finish(ToGrpc(ShuttingDown()));
  return reactor;
}

grpc::ServerWriteReactor<v1::BlockEvents>* BlocksService::Watch(
    grpc::CallbackServerContext* context, const v1::WatchBlocksRequest* request) {
  return feed_.Watch(context, *request);
}

grpc::ServerWriteReactor<v1::BlockList>* BlocksService::List(grpc::CallbackServerContext*,
                                                             const v1::ListBlocksRequest* request) {
  auto stream = ServerStream<v1::BlockList>::Create();
  absl::Status status = worker_.CheckReady();
  if (status.ok()) status = CheckTier(request->tier());
  if (!status.ok()) {
    stream->End(ToGrpc(status));
    return stream.get();
  }
  const int limit = request->limit() > 0 ? std::min(request->limit(), kListMax) : kListDefault;
  const int64_t bytes = worker_.base().kv_shape().block_bytes();
  const bool posted =
      worker_.host()->Post([stream, limit, bytes, prefix = request->key_prefix()](Engine& engine) {
        v1::BlockList list;
        int listed = 0;
        for (const PublishedBlock& block : engine.ListBlocks()) {
          if (listed == limit) break;
          if (!absl::StartsWith(block.key.ToHex(), prefix)) continue;
          ++listed;
          v1::BlockInfo* info = list.add_blocks();
          info->set_key(std::string(block.key.AsBytes()));
          info->set_tier(kTier);
          info->set_bytes(bytes);
          info->set_index(block.index);
          info->set_holds(block.refs);
          if (list.blocks_size() < kListOfMessage) continue;
          stream->Push(std::exchange(list, {}), 0);
        }
        if (list.blocks_size() > 0) stream->Push(std::move(list), 0);
        stream->End(grpc::Status::OK);
      });
  if (!posted) stream->End(ToGrpc(ShuttingDown()));
  return stream.get();
}

grpc::ServerUnaryReactor* BlocksService::Stat(grpc::CallbackServerContext* context,
                                              const v1::StatBlocksRequest*,
                                              v1::StatBlocksReply* reply) {
  reply->set_id(worker_id_);
  feed_.Describe(*reply);
  if (!worker_.ready()) return Finish(context, absl::OkStatus());
  const EngineStats s = worker_.host()->stats();
  const int64_t bytes = worker_.base().kv_shape().block_bytes();
  v1::TierStat& tier = *reply->add_tiers();
  tier.set_tier(kTier);
  tier.set_blocks(s.blocks_cached + s.blocks_held);
  tier.set_bytes(tier.blocks() * bytes);
  tier.set_bytes_max(s.blocks_total * bytes);
  tier.set_holds(s.blocks_on_loan);
  tier.set_state("ok");
  auto& counters = *tier.mutable_counters();
  counters["blocks_corrupt"] = s.blocks_corrupt;
  counters["blocks_rejected"] = s.blocks_rejected;
  counters["blocks_lent"] = s.blocks_lent;
  counters["leases_expired"] = s.leases_expired;
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* BlocksService::Evict(grpc::CallbackServerContext* context,
                                               const v1::EvictBlocksRequest* request,
                                               v1::EvictBlocksReply* reply) {
  absl::Status status = worker_.CheckReady();
  if (status.ok()) status = CheckTier(request->tier());
  if (!status.ok()) return Finish(context, status);
  const int64_t bytes = worker_.base().kv_shape().block_bytes();
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const bool posted =
      worker_.host()->Post([reactor, reply, bytes, prefix = request->key_prefix()](Engine& engine) {
        reply->set_blocks(engine.EvictBlocks(prefix));
        reply->set_bytes(reply->blocks() * bytes);
        reactor->Finish(grpc::Status::OK);
      });
  if (!posted) reactor->Finish(ToGrpc(ShuttingDown()));
  return reactor;
}

grpc::Status BlocksService::Verify(grpc::ServerContext* context,
                                   const v1::VerifyBlocksRequest* request,
                                   grpc::ServerWriter<v1::VerifyProgress>* writer) {
  absl::Status status = worker_.CheckReady();
  if (status.ok()) status = CheckTier(request->tier());
  if (!status.ok()) return ToGrpc(status);
  v1::VerifyProgress progress;
  const EngineStats stats = worker_.host()->stats();
  const int total = stats.blocks_total;
  progress.set_blocks_total(stats.blocks_cached + stats.blocks_held);
  for (int begin = 0; begin < total; begin += kVerifyAtOnce) {
    if (context->IsCancelled()) return grpc::Status::CANCELLED;
    Engine::Verified verified;
    if (!worker_.host()->Do(
            [&](Engine& engine) { verified = engine.VerifyBlocks(begin, kVerifyAtOnce); })) {
      return ToGrpc(ShuttingDown());
    }
    progress.set_blocks_done(progress.blocks_done() + verified.read);
    progress.set_blocks_bad(progress.blocks_bad() + verified.bad);
    if (!writer->Write(progress)) return grpc::Status::CANCELLED;
  }
  return grpc::Status::OK;
}

}  // namespace chorale
