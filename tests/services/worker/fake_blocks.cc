#include "tests/services/worker/fake_blocks.h"

#include <utility>

#include "rpc/blocks/convert_blocks.h"
#include "rpc/blocks/kv_frame.h"
#include "rpc/raw_message.h"

namespace chorale {
namespace {

// Reads one call: `begin` gets its first message.
template <typename Message>
FakeStream* Serve(std::function<void(FakeStream& stream, const Message& first)> begin,
                  std::function<void()> on_cancelled) {
  auto stream = FakeStream::Create();
  auto begun = std::make_shared<bool>(false);
  FakeStream* raw = stream.get();
  // The callbacks belong to the stream, which lets go of them before it goes itself.
  raw->OnCancelled([raw, on_cancelled = std::move(on_cancelled)] {
    raw->End(grpc::Status::CANCELLED);
    on_cancelled();
  });
  raw->OnMessage(
      [raw, begun, begin = std::move(begin)](const grpc::ByteBuffer& bytes) {
        if (std::exchange(*begun, true)) return;  // an acknowledgement
        begin(*raw, ParseMessage<Message>(bytes).value_or(Message()));
      },
      [] {});
  return raw;
}

}  // namespace

void SendBlock(FakeStream& stream, int index, const BlockKey& key, const FakeBlock& block) {
  FrameWriter writer([&](grpc::ByteBuffer frame, int64_t payload_bytes) {
    stream.Push(std::move(frame), payload_bytes);
  });
  writer.Add(index, {.key = key, .checksum = block.checksum}, block.bytes);
  writer.Flush();
}

void FakeBlocks::OnPull(PullFn fn) {
  std::lock_guard lock(mutex_);
  on_pull_ = std::move(fn);
}

void FakeBlocks::OnLookup(LookupFn fn) {
  std::lock_guard lock(mutex_);
  on_lookup_ = std::move(fn);
}

void FakeBlocks::SendBlocks(FakeStream& stream, const std::vector<BlockKey>& keys, int count) {
  for (int i = 0; i < static_cast<int>(keys.size()) && i < count; ++i) {
    const auto block = blocks.find(keys[i]);
    if (block == blocks.end()) return;
    SendBlock(stream, i, keys[i], block->second);
  }
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* FakeBlocks::Pull(
    grpc::CallbackServerContext* context) {
  pull_connections.Put(context->peer());
  return Serve<v1::PullMessage>(
      [this](FakeStream& stream, const v1::PullMessage& first) {
        pulls.Put(first.pull());
        const std::vector<BlockKey> keys = *KeysFromProto(first.pull().keys());
        PullFn on_pull;
        {
          std::lock_guard lock(mutex_);
          on_pull = on_pull_;
        }
        if (on_pull) return on_pull(stream, keys);
        SendBlocks(stream, keys, static_cast<int>(keys.size()));
        stream.End(grpc::Status::OK);
      },
      [this] { cancels.Put(0); });
}

grpc::ServerUnaryReactor* FakeBlocks::Lookup(grpc::CallbackServerContext* context,
                                             const v1::LookupRequest* request,
                                             v1::LookupReply* reply) {
  auto* reactor = context->DefaultReactor();
  const std::vector<BlockKey> keys = *KeysFromProto(request->keys());
  const auto answer = [reactor, reply](int blocks, const grpc::Status& status) {
    reply->set_blocks(blocks);
    reactor->Finish(status);
  };
  lookups.Put(keys);
  LookupFn on_lookup;
  {
    std::lock_guard lock(mutex_);
    on_lookup = on_lookup_;
  }
  if (on_lookup) {
    on_lookup({.keys = keys, .answer = answer});
    return reactor;
  }
  int here = 0;
  while (here < static_cast<int>(keys.size()) && blocks.contains(keys[here])) ++here;
  answer(here, grpc::Status::OK);
  return reactor;
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* FakePrefill::Run(
    grpc::CallbackServerContext*) {
  return Serve<v1::PrefillMessage>(
      [this](FakeStream& stream, const v1::PrefillMessage& first) {
        runs.Put(first.run());
        const int begin = first.run().first_block();
        for (int i = begin; i < static_cast<int>(chain.size()); ++i) {
          if (i - begin == blocks_sent_max) break;
          SendBlock(stream, i, chain[i], blocks.at(chain[i]));
        }
        if (ends) stream.End(end);
      },
      [this] { cancels.Put(0); });
}

}  // namespace chorale
