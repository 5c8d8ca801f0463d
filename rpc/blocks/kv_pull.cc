#include "rpc/blocks/kv_pull.h"

#include <utility>

#include "base/check.h"
#include "rpc/deadline.h"
#include "rpc/raw_message.h"
#include "rpc/status.h"

namespace chorale {

std::shared_ptr<KvPull> KvPull::Create(Call call) {
  CHECK(call.request.Valid());
  return std::shared_ptr<KvPull>(new KvPull(std::move(call)));
}

void KvPull::Begin() {
  const std::shared_ptr<KvPull> self = shared_from_this();
  self_ = self;
  write_ = std::move(call_.request);
  SetDeadline(context_, call_.deadline);
  stub_.PrepareBidiStreamingCall(&context_, call_.method, {}, this);
  StartWrite(&write_);
  StartRead(&frame_);
  // Reads and acknowledgements come from other threads: the hold keeps OnDone away meanwhile.
  AddHold();
  StartCall();
}

std::shared_ptr<KvPull> KvPull::Start(Call call) {
  std::shared_ptr<KvPull> pull = Create(std::move(call));
  pull->Begin();
  return pull;
}

void KvPull::OnReadDone(bool ok) {
  if (ok) {
    absl::StatusOr<DecodedKvFrame> frame = DecodeKvFrame(frame_);
    frame_.Clear();
    if (frame.ok()) {
      auto taken = [self = self_](const DecodedKvFrame* frame) {
        delete frame;
        self->StartRead(&self->frame_);
      };
      call_.on_frame({new DecodedKvFrame(*std::move(frame)), std::move(taken)});
      return;
    }
    bad_frame_ = frame.status();
    context_.TryCancel();
  }
  {
    std::lock_guard lock(mutex_);
    writable_ = false;
  }
  RemoveHold();
}

void KvPull::Acknowledge(int blocks_taken) {
  std::lock_guard lock(mutex_);
  blocks_taken_ = blocks_taken;
  if (!writing_ && writable_) SendAcknowledgement();
}

void KvPull::SendAcknowledgement() {
  // The same field in all messages that acknowledge.
  v1::PullMessage message;
  message.set_blocks_taken(blocks_taken_);
  write_ = SerializeMessage(message);
  blocks_told_ = blocks_taken_;
  writing_ = true;
  StartWrite(&write_);
}

void KvPull::OnWriteDone(bool ok) {
  std::lock_guard lock(mutex_);
  writing_ = false;
  if (!ok) writable_ = false;
  if (writable_ && blocks_told_ != blocks_taken_) SendAcknowledgement();
}

void KvPull::Cancel() { context_.TryCancel(); }

void KvPull::OnDone(const grpc::Status& status) {
  const absl::Status result = bad_frame_.ok() ? FromGrpc(status) : bad_frame_;
  const auto on_done = std::move(call_.on_done);
  call_.on_frame = nullptr;  // breaks cycles between the call and what it serves
  self_ = nullptr;           // nothing of this is touched any more: it may be gone
  on_done(result);
}

}  // namespace chorale
