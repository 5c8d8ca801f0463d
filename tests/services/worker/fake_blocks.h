// A peer, store or prefill worker that says and sends what a test tells it to.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cache/block_key.h"
#include "chorale/v1/blocks.grpc.pb.h"
#include "chorale/v1/worker.grpc.pb.h"
#include "rpc/bidi_stream.h"
#include "rpc/server.h"
#include "tests/testing/mailbox.h"

namespace chorale {

using FakeStream = BidiStream<grpc::ByteBuffer, grpc::ByteBuffer>;

struct FakeBlock {
  uint64_t checksum = 0;
  std::vector<std::byte> bytes;
};
using FakeBlockMap = std::map<BlockKey, FakeBlock>;

// Sends a whole block as the `index`-th of its call.
void SendBlock(FakeStream& stream, int index, const BlockKey& key, const FakeBlock& block);

// Serves Blocks. `blocks` is set before the first call, and read by threads of gRPC's.
class FakeBlocks : public v1::Blocks::WithRawCallbackMethod_Pull<
                       v1::Blocks::WithCallbackMethod_Lookup<v1::Blocks::Service>> {
 public:
  struct Question {
    std::vector<BlockKey> keys;
    std::function<void(int blocks, const grpc::Status& status)> answer;  // to be called once
  };

  using PullFn = std::function<void(FakeStream& stream, const std::vector<BlockKey>& keys)>;
  using LookupFn = std::function<void(Question question)>;

  FakeBlockMap blocks;
  Mailbox<v1::PullRequest> pulls;
  Mailbox<std::string> pull_connections;  // that they came on
  Mailbox<std::vector<BlockKey>> lookups;
  Mailbox<int> cancels;

  // What calls that begin from now on do instead of sending, or counting, the leading keys that are
  // here.
  void OnPull(PullFn fn);
  void OnLookup(LookupFn fn);
  // Sends the leading keys that are here, at most `count`.
  void SendBlocks(FakeStream& stream, const std::vector<BlockKey>& keys, int count);

 private:
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Pull(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* Lookup(grpc::CallbackServerContext* context,
                                   const v1::LookupRequest* request,
                                   v1::LookupReply* reply) override;

  std::mutex mutex_;
  PullFn on_pull_;      // under mutex_
  LookupFn on_lookup_;  // under mutex_
};

// Serves Prefill: the blocks of `chain` from the one that is asked for on. All but the mailboxes is
// set before the first call.
class FakePrefill : public v1::Prefill::WithRawCallbackMethod_Run<v1::Prefill::Service> {
 public:
  std::vector<BlockKey> chain;
  FakeBlockMap blocks;
  int blocks_sent_max = 1 << 20;
  bool ends = true;  // else it is silent after the blocks
  grpc::Status end;

  Mailbox<v1::PrefillRequest> runs;
  Mailbox<int> cancels;

 private:
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Run(
      grpc::CallbackServerContext* context) override;
};

// A service on a port of its own.
template <typename Service>
class FakeServer {
 public:
  FakeServer() : server_(*RpcServer::Start("127.0.0.1:0", {&service_})) {
    address_ = server_->address();
  }
  // Nobody listens there from now on.
  void Stop() { server_ = nullptr; }
  const std::string& address() const { return address_; }
  Service* operator->() { return &service_; }
  Service& operator*() { return service_; }

 private:
  Service service_;
  std::unique_ptr<RpcServer> server_;
  std::string address_;
};

}  // namespace chorale
