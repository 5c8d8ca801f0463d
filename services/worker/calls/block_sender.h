// BlockSender: blocks of this worker's engine into one call's stream.
//
// Every block that is sent is lent (engine/engine.h): as bytes, until gRPC has let go of them,
// which it sends from where they lie; by reference, where the receiver has mapped this worker's
// memory, until the receiver says that it has taken it. A receiver that is silent for the lease
// loses all; bytes that gRPC still sends from are not written again before it lets go of them.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include <grpcpp/support/byte_buffer.h>

#include "rpc/blocks/kv_frame.h"
#include "services/common/block_call.h"
#include "services/worker/engine_host.h"
#include "services/worker/worker.h"

namespace chorale {

// Belongs to the engine's thread.
class BlockSender : public std::enable_shared_from_this<BlockSender> {
 public:
  // `region_mapped` names the shared memory that the receiver has mapped. `on_returned` is called
  // when a block that was sent as bytes has come back.
  BlockSender(const Worker& worker, std::shared_ptr<EngineHost> host,
              std::shared_ptr<BlockStream> stream, RequestId loan, const std::string& region_mapped,
              std::function<void(Engine&)> on_returned);

  // Whether more may be sent now, and whether parts may: these leave room for a block, whose lease
  // they are under.
  bool HasRoom() const;
  bool HasRoomForParts() const;
  // Whether blocks may be sent as they grow: those that travel packed, or by reference, may not.
  bool sends_parts() const { return !by_reference_ && !packs_; }
  // Sends the `place`-th block of the loan as block `index` of the call; bytes before `sent` are
  // there already. False: it is not lent any more.
  bool Send(Engine& engine, int place, int index, size_t sent = 0);
  // Sends bytes of a block that is still being written; they are copied.
  void SendPart(int index, std::span<const std::byte> bytes);
  // Hands what is gathered to the stream.
  void Flush() { writer_.Flush(); }
  v1::KvFrame& header() { return writer_.header(); }

  // The receiver has taken so many blocks, of those sent by reference.
  void Acknowledged(Engine& engine, int blocks);
  // Whether something that was flushed is still on its way. What it waits for comes with an
  // acknowledgement, with the end of a write or with on_returned.
  bool AwaitsReceiver() const;

 private:
  bool SendPacked(const Engine::BlockView& block, int place, int index);
  void Return(Engine& engine, int place);

  const kernels::KvShape shape_;
  const std::shared_ptr<EngineHost> host_;
  const std::shared_ptr<BlockStream> stream_;
  const RequestId loan_;
  const bool by_reference_;
  const bool packs_;
  const int ahead_max_;
  const std::function<void(Engine&)> on_returned_;
  FrameWriter writer_;
  std::deque<int> places_;  // by reference and not taken, in the order they were sent
  int taken_ = 0;           // by reference
  int lent_ = 0;            // not returned
};

}  // namespace chorale
