// KvPull: the receiving side of one call that brings K/V blocks (Blocks.Pull, Prefill.Run).
//
// One frame at a time: the next is read when the last one is let go, so a receiver that is slow
// holds one frame and the transport's windows, and the sender waits. A KvPull keeps itself alive
// until the call is over; the pointer is for those who acknowledge or cancel. Thread safe.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/client_callback.h>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "rpc/blocks/kv_frame.h"

namespace chorale {

class KvPull : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
               public std::enable_shared_from_this<KvPull> {
 public:
  struct Call {
    std::shared_ptr<grpc::Channel> channel;
    std::string method;        // "/chorale.v1.Blocks/Pull"
    grpc::ByteBuffer request;  // the caller's first message
    absl::Time deadline = absl::InfiniteFuture();
    // Gets each frame on a thread of gRPC's; the next is read when nobody refers to it any more. It
    // may be handed to another thread, and outlives a cancellation.
    std::function<void(std::shared_ptr<const DecodedKvFrame>)> on_frame;
    // Called once, after the last frame was let go and as the last act of the call. DataLoss: the
    // sender sent what is no frame.
    std::function<void(const absl::Status&)> on_done;
  };
  // The call does not run before Begin, called once: what on_frame needs of this can be set
  // between.
  static std::shared_ptr<KvPull> Create(Call call);
  void Begin();
  // Both. The first frame may come before this returns.
  static std::shared_ptr<KvPull> Start(Call call);

  // Tells the sender that `blocks_taken` blocks of this call were copied from shared memory. Counts
  // may be passed over when they come faster than they can be sent; the last one is not.
  void Acknowledge(int blocks_taken);
  // Ends the call. No effect when it is over.
  void Cancel();

 private:
  explicit KvPull(Call call) : stub_(std::move(call.channel)), call_(std::move(call)) {}
  void SendAcknowledgement();  // under mutex_

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  grpc::GenericStub stub_;
  Call call_;
  grpc::ClientContext context_;
  grpc::ByteBuffer frame_;
  absl::Status bad_frame_;        // why we ended the call
  std::shared_ptr<KvPull> self_;  // until OnDone

  std::mutex mutex_;
  grpc::ByteBuffer write_;  // under mutex_: on its way
  bool writing_ = true;     // under mutex_
  bool writable_ = true;    // under mutex_: the call lives
  int blocks_taken_ = 0;    // under mutex_
  int blocks_told_ = 0;     // under mutex_: of blocks_taken_
};

}  // namespace chorale
