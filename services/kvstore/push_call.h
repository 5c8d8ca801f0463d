// One Blocks.Push into a store: frames are read one at a time, and their blocks verified and stored
// on the pool before the next is read.
#pragma once

#include <cstdint>

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "absl/status/statusor.h"
#include "chorale/v1/blocks.pb.h"
#include "services/kvstore/block_store.h"
#include "services/kvstore/work_pool.h"

namespace chorale {

// Serves one call; `reply` is gRPC's. The store and the pool outlive it.
grpc::ServerReadReactor<grpc::ByteBuffer>* StartPushCall(BlockStore& store, WorkPool& pool,
                                                         grpc::ByteBuffer* reply);

// How the store names a format: without a writer, since keys name it.
std::string TextOfFormat(const v1::KvFormat& format);

}  // namespace chorale
