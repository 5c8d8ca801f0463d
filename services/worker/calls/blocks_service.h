// chorale.v1.Blocks over a worker's pool.
#pragma once

#include "chorale/v1/blocks.grpc.pb.h"
#include "services/common/block_feed.h"
#include "services/worker/worker.h"

namespace chorale {

class BlocksService
    : public v1::Blocks::WithRawCallbackMethod_Pull<
          v1::Blocks::WithCallbackMethod_Lookup<v1::Blocks::WithCallbackMethod_Watch<
              v1::Blocks::WithCallbackMethod_Stat<v1::Blocks::WithCallbackMethod_Evict<
                  v1::Blocks::WithCallbackMethod_List<v1::Blocks::Service>>>>>> {
 public:
  // All outlive the service.
  BlocksService(Worker& worker, BlockFeed& feed, std::string worker_id)
      : worker_(worker), feed_(feed), worker_id_(std::move(worker_id)) {}

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Pull(
      grpc::CallbackServerContext* context) override;
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
  // Rare and long: on a thread of gRPC's, block by block between the engine's steps.
  grpc::Status Verify(grpc::ServerContext* context, const v1::VerifyBlocksRequest* request,
                      grpc::ServerWriter<v1::VerifyProgress>* writer) override;

 private:
  Worker& worker_;
  BlockFeed& feed_;
  const std::string worker_id_;
};

}  // namespace chorale
