// chorale.v1.Blocks over a BlockStore. What takes time is done on a pool, not on gRPC's threads.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "chorale/v1/blocks.grpc.pb.h"
#include "services/common/block_feed.h"
#include "services/kvstore/block_store.h"
#include "services/kvstore/pull_call.h"
#include "services/kvstore/work_pool.h"

namespace chorale {

class KvstoreService
    : public v1::Blocks::WithRawCallbackMethod_Pull<v1::Blocks::WithRawCallbackMethod_Push<
          v1::Blocks::WithCallbackMethod_Lookup<v1::Blocks::WithCallbackMethod_Watch<
              v1::Blocks::WithCallbackMethod_Stat<v1::Blocks::WithCallbackMethod_Evict<
                  v1::Blocks::WithCallbackMethod_List<v1::Blocks::Service>>>>>>> {
 public:
  struct Options {
    std::string region;  // where the store's memory can be mapped; empty: nowhere
    int threads = 4;
    absl::Duration lease = absl::Seconds(10);  // how long a receiver may be silent
  };
  // The store records events, and outlives the service.
  KvstoreService(BlockStore& store, Options options);
  ~KvstoreService();

  // What Stat tells, once it is known.
  void SetId(const std::string& id);
  // What Stat answers.
  v1::StatBlocksReply Describe();
  // Ends the watches, so that a drain need not wait for them.
  void Stop();

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Pull(
      grpc::CallbackServerContext* context) override;
  grpc::ServerReadReactor<grpc::ByteBuffer>* Push(grpc::CallbackServerContext* context,
                                                  grpc::ByteBuffer* reply) override;
  grpc::ServerUnaryReactor* Lookup(grpc::CallbackServerContext* context,
                                   const v1::LookupRequest* request,
                                   v1::LookupReply* reply) override;
  grpc::ServerWriteReactor<v1::BlockEvents>* Watch(grpc::CallbackServerContext* context,
                                                   const v1::WatchBlocksRequest* request) override;
  grpc::ServerWriteReactor<v1::BlockList>* List(grpc::CallbackServerContext* context,
                                                const v1::ListBlocksRequest* request) override;
  grpc::ServerUnaryReactor* Stat(grpc::CallbackServerContext* context,
                                 const v1::StatBlocksRequest* request,
                                 v1::StatBlocksReply* reply) override;
  grpc::ServerUnaryReactor* Evict(grpc::CallbackServerContext* context,
                                  const v1::EvictBlocksRequest* request,
                                  v1::EvictBlocksReply* reply) override;
  // Rare and long: on a thread of gRPC's.
  grpc::Status Verify(grpc::ServerContext* context, const v1::VerifyBlocksRequest* request,
                      grpc::ServerWriter<v1::VerifyProgress>* writer) override;

 private:
  absl::StatusOr<std::shared_ptr<PullCall>> StartPull(const std::shared_ptr<BlockStream>& stream,
                                                      const grpc::ByteBuffer& bytes);
  void KeepHouse();

  BlockStore& store_;
  const Options options_;
  BlockFeed feed_;
  std::mutex mutex_;
  std::vector<std::weak_ptr<PullCall>> calls_;  // under mutex_
  std::string id_;                              // under mutex_
  std::atomic<bool> stopping_ = false;
  std::thread housekeeper_;  // tells events, ends leases
  WorkPool lookups_;
  WorkPool pool_;  // goes first: its work uses the others
};

}  // namespace chorale
