// A context of 4,000 tokens that was written on one worker is continued on another, which computes
// what is new and nothing else: read from the first worker, found through the router, or from a
// store when the first worker is gone.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <signal.h>

#include "rpc/blocks/convert_blocks.h"
#include "rpc/channels.h"
#include "tests/e2e/fixtures/cache_fixture.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

constexpr int kContext = 4000;
constexpr int kNew = 20;  // tokens of the second turn

ModelConfig LongConfig() {
  ModelConfig config = TinyConfig();
  config.positions_max = 8192;
  return config;
}

class CacheMove : public CacheTest {
 protected:
  CacheMove() : CacheTest(LongConfig()) {
    context_ = RandomPrompt(1, kContext);
    const std::vector<int> said = Undisturbed(context_);
    next_ = context_;
    next_.insert(next_.end(), said.begin(), said.end());
    const std::vector<int> more = RandomPrompt(2, kNew);
    next_.insert(next_.end(), more.begin(), more.end());
    undisturbed_ = Undisturbed(next_);
    // Whole blocks of what was written in the first turn: all but the last token that was said.
    known_ = (kContext + kOutput - 1) / kBlockTokens * kBlockTokens;
  }

  void StartWorkers(int stores, const std::string& shared_memory) {
    Start({.prefill = 0,
           .decode = 2,
           .worker_flags = {"--blocks", "600", shared_memory},
           .stores = stores});
  }

  // The second turn is right, and what decode-1 did for it.
  struct Done {
    int64_t computed = 0;
    int64_t received = 0;
  };
  template <typename AskFn>
  Done Continue(AskFn ask) {
    std::map<std::string, int64_t> before = cluster_->Metrics("decode-1");
    const Generation got = ask();
    EXPECT_TRUE(got.status.ok()) << got.status.error_message();
    EXPECT_EQ(got.tokens.at(0), undisturbed_);
    std::map<std::string, int64_t> after = cluster_->Metrics("decode-1");
    const auto grown = [&](const char* counter) { return after[counter] - before[counter]; };
    return {grown("prompt_tokens_computed"), grown("prompt_tokens_received")};
  }
  void ExpectOnlyNew(const Done& done) const {
    // More than what the first worker wrote, when an earlier try computed the rest and stored it.
    EXPECT_GE(done.received, known_);
    EXPECT_EQ(done.computed, static_cast<int64_t>(next_.size()) - 1 - done.received);
    EXPECT_LE(done.computed, kNew + kOutput + kBlockTokens - 1);
  }
  // Asks until decode-1 is asked and receives what is known: what it may learn of it from comes to
  // know that in its own time.
  template <typename AskFn>
  void ExpectSoonOnlyNew(AskFn ask) {
    Done done;
    EXPECT_TRUE(WaitFor([&] {
      Forget("decode-1");
      done = Continue(ask);
      return done.received > 0;
    }));
    ExpectOnlyNew(done);
  }

  std::vector<int> context_;
  std::vector<int> next_;  // the prompt of the second turn
  std::vector<int> undisturbed_;
  int known_ = 0;
};

TEST_F(CacheMove, IsReadFromTheFirstWorkerOverTheWire) {
  StartWorkers(0, "--no-shared-memory");
  Ask("decode-0", context_);
  ExpectOnlyNew(Continue(
      [&] { return Ask("decode-1", next_, {.holders = {cluster_->SocketOf("decode-0")}}); }));
}

TEST_F(CacheMove, IsReadFromTheMemoryOfTheFirstWorker) {
  StartWorkers(0, "--shared-memory");
  const KvSources first = {.holders = {cluster_->SocketOf("decode-0")}};
  const std::vector<int> another = RandomPrompt(3, 100);
  Ask("decode-0", another);
  Ask("decode-1", another, first);  // learns of the memory
  Ask("decode-0", context_);
  ExpectOnlyNew(Continue([&] { return Ask("decode-1", next_, first); }));
  EXPECT_GE(cluster_->Metrics("decode-1")["blocks_shared"], known_ / kBlockTokens);
}

// Both together read more blocks than a worker may lend.
TEST_F(CacheMove, IsReadWhileAnotherReaderTakesNothing) {
  StartWorkers(0, "--shared-memory");
  const std::string address = cluster_->SocketOf("decode-0");
  const std::vector<int> another = RandomPrompt(3, 100);
  Ask("decode-0", another);
  Ask("decode-1", another, {.holders = {address}});  // learns of the memory
  Ask("decode-0", context_);

  auto stub = v1::Blocks::NewStub(OpenChannel(address));
  v1::PullMessage message;
  KeysToProto(Keys(context_), *message.mutable_pull()->mutable_keys());
  *message.mutable_pull()->mutable_format() = Format();
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReaderWriter<v1::PullMessage, v1::KvFrame>>> streams;
  for (int i = 0; i < 4; ++i) {  // the first learns of the memory, the others acknowledge nothing
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    streams.push_back(stub->Pull(contexts.back().get()));
    streams.back()->Write(message);
    v1::KvFrame frame;
    ASSERT_TRUE(streams.back()->Read(&frame));
    if (i == 0) message.mutable_pull()->set_shared_region(frame.shared_region());
  }

  const std::map<std::string, int64_t> before = cluster_->Metrics("decode-1");
  ExpectOnlyNew(Continue([&] { return Ask("decode-1", next_, {.holders = {address}}); }));
  std::map<std::string, int64_t> after = cluster_->Metrics("decode-1");
  EXPECT_EQ(after["pulls_failed"], before.at("pulls_failed"));
  EXPECT_GE(after["blocks_shared"] - before.at("blocks_shared"), known_ / kBlockTokens);
  for (auto& context : contexts) context->TryCancel();
}

TEST_F(CacheMove, IsFoundByTheRouter) {
  StartWorkers(0, "--shared-memory");
  Ask("decode-0", context_);
  v1::GenerateRequest request;
  request.set_model("m");
  request.mutable_token_ids()->mutable_ids()->Assign(next_.begin(), next_.end());
  *request.mutable_sampling() = OneTurn();
  ExpectSoonOnlyNew([&] { return Generate(cluster_->inference(), request); });
}

TEST_F(CacheMove, ComesFromAStoreWhenTheFirstWorkerIsGone) {
  StartWorkers(1, "--shared-memory");
  Ask("decode-0", context_);
  WaitForBlocks("store-0", next_, known_ / kBlockTokens);
  cluster_->worker("decode-0").Signal(SIGKILL);
  cluster_->worker("decode-0").Wait();
  ExpectSoonOnlyNew([&] { return Ask("decode-1", next_); });
}

}  // namespace
}  // namespace chorale
