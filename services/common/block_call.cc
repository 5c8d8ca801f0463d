#include "services/common/block_call.h"

#include <utility>

#include "chorale/v1/blocks.pb.h"
#include "rpc/raw_message.h"
#include "rpc/status.h"

namespace chorale {

void ServeBlockCall(std::shared_ptr<BlockStream> stream,
                    std::function<absl::StatusOr<AcknowledgeFn>(
                        const std::shared_ptr<BlockStream>& stream, const grpc::ByteBuffer& first)>
                        begin) {
  struct State {
    bool begun = false;
    AcknowledgeFn acknowledge;  // null: the call was refused
  };
  auto state = std::make_shared<State>();
  const std::weak_ptr<BlockStream> weak = stream;
  const auto on_message = [state, weak, begin = std::move(begin)](const grpc::ByteBuffer& bytes) {
    const std::shared_ptr<BlockStream> stream = weak.lock();
    if (stream == nullptr) return;
    if (!std::exchange(state->begun, true)) {
      absl::StatusOr<AcknowledgeFn> started = begin(stream, bytes);
      if (started.ok()) {
        state->acknowledge = *std::move(started);
      } else {
        stream->End(ToGrpc(started.status()));
      }
    } else if (state->acknowledge) {
      // The same field in all messages that acknowledge.
      const absl::StatusOr<v1::PullMessage> message = ParseMessage<v1::PullMessage>(bytes);
      if (message.ok()) state->acknowledge(message->blocks_taken());
    }
  };
  stream->OnMessage(on_message, [state, weak] {
    const std::shared_ptr<BlockStream> stream = weak.lock();
    if (stream == nullptr || state->begun) return;
    stream->End(
        ToGrpc(absl::InvalidArgumentError("the call was closed before it asked for anything")));
  });
}

}  // namespace chorale
