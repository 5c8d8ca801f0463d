// One hand-off from the sending side: blocks of a prompt, as they are finished, into a stream.
#pragma once

#include <memory>

#include <grpcpp/support/byte_buffer.h>

#include "absl/time/time.h"
#include "chorale/v1/worker.pb.h"
#include "rpc/server_stream.h"
#include "services/worker/worker.h"

namespace chorale {

using FrameStream = ServerStream<grpc::ByteBuffer>;

// Starts writing the K/V of `request` and sends it on `stream`, which it ends. When the caller goes
// away, the work stops and its blocks are freed. A caller whose weights or layout differ gets
// FailedPrecondition with both sides' values.
void StartPrefill(Worker& worker, const v1::PrefillRequest& request, absl::Time deadline,
                  std::shared_ptr<FrameStream> stream);

}  // namespace chorale
