// A call that brings blocks to its caller (Blocks.Pull, Prefill.Run), as its server reads it.
#pragma once

#include <functional>
#include <memory>

#include <grpcpp/support/byte_buffer.h>

#include "absl/status/statusor.h"
#include "rpc/bidi_stream.h"

namespace chorale {

using BlockStream = BidiStream<grpc::ByteBuffer, grpc::ByteBuffer>;

// Tells how many blocks the receiver has taken, from any thread.
using AcknowledgeFn = std::function<void(int blocks_taken)>;

// Reads a call: `begin` gets its first message, on a thread of gRPC's, and starts to serve it;
// those that follow acknowledge. An error of `begin` ends the call, and so does a caller who asks
// nothing.
void ServeBlockCall(std::shared_ptr<BlockStream> stream,
                    std::function<absl::StatusOr<AcknowledgeFn>(
                        const std::shared_ptr<BlockStream>& stream, const grpc::ByteBuffer& first)>
                        begin);

}  // namespace chorale
