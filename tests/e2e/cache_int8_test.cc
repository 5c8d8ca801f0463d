// A cluster whose K/V is in 8 bits: whichever way a block comes, packed or not, tokens are those of
// the worker that computed it; and workers that round share nothing with those that do not.
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/formats/kv_codec.h"
#include "rpc/blocks/convert_blocks.h"
#include "rpc/channels.h"
#include "tests/e2e/fixtures/bit_flip.h"
#include "tests/e2e/fixtures/cache_fixture.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

constexpr int kBlocks = 12;
constexpr int kPrompt = kBlocks * 16;

class CacheInt8 : public CacheTest {
 protected:
  CacheInt8() : CacheTest(TinyConfig()) {}

  void StartRounding(const std::string& shared_memory, int stores) {
    Start({.prefill = 1,
           .decode = 2,
           .worker_flags = {"--kv", "int8", "--blocks", "100", shared_memory},
           .stores = stores,
           .store_disk = stores > 0});
  }
  static v1::KvFormat Packed(v1::KvFormat format) {
    format.set_encoding("int8");
    return format;
  }
  // What decode-1 computes of the prompt when it may take it from `sources`. Its answer is that of
  // decode-0, which computed all of it.
  int64_t ComputedElsewhere(const KvSources& sources) {
    const std::vector<int> answer = Ask("decode-0", prompt_).tokens.at(0);
    Forget("decode-1");
    const int64_t before = cluster_->Metrics("decode-1")["prompt_tokens_computed"];
    EXPECT_EQ(Ask("decode-1", prompt_, sources).tokens.at(0), answer);
    return cluster_->Metrics("decode-1")["prompt_tokens_computed"] - before;
  }

  const std::vector<int> prompt_ = RandomPrompt(1, kPrompt + 1);
};

TEST_F(CacheInt8, ComesFromAPrefillWorkerOverTheWire) {
  StartRounding("--no-shared-memory", 0);
  EXPECT_EQ(ComputedElsewhere({.prefill = cluster_->SocketOf("prefill-0")}), 0);
}

TEST_F(CacheInt8, ComesFromAPeerOverTheWireInAThirdOfTheBytes) {
  StartRounding("--no-shared-memory", 0);
  const std::string peer = cluster_->SocketOf("decode-0");
  EXPECT_EQ(ComputedElsewhere({.holders = {peer}}), 0);
  const kernels::KvShape shape = config_.kv_shape(kernels::DType::kF32);
  const std::string block = CopyBlock(peer, Packed(Format()), Keys(prompt_).front());
  EXPECT_EQ(static_cast<int64_t>(block.size()), kernels::PackedBytes(shape));
  EXPECT_LT(static_cast<int64_t>(block.size()), shape.block_bytes() / 3);
}

TEST_F(CacheInt8, ComesFromTheMemoryOfAPeer) {
  StartRounding("--shared-memory", 0);
  const KvSources peer = {.holders = {cluster_->SocketOf("decode-0")}};
  const std::vector<int> another = RandomPrompt(2, 100);
  Ask("decode-0", another);
  Ask("decode-1", another, peer);  // learns of the memory
  EXPECT_EQ(ComputedElsewhere(peer), 0);
  EXPECT_EQ(cluster_->Metrics("decode-1")["blocks_shared"], kBlocks);
}

TEST_F(CacheInt8, ComesFromTheMemoryAndFromTheDiskOfAStore) {
  StartRounding("--shared-memory", 1);
  const KvSources store = {.holders = {cluster_->SocketOf("store-0")}};
  Ask("decode-0", prompt_);
  WaitForBlocks("store-0", prompt_, kBlocks);
  EXPECT_EQ(ComputedElsewhere(store), 0);
  ASSERT_TRUE(WaitFor([&] { return TierCounter("store-0", "disk", "written") >= kBlocks; }));
  cluster_->store("store-0").Signal(SIGTERM);
  EXPECT_EQ(cluster_->store("store-0").Wait(), 0);
  cluster_->StartStore("store-0");
  EXPECT_EQ(ComputedElsewhere(store), 0);
  EXPECT_GE(TierCounter("store-0", "disk", "hits"), kBlocks);
}

TEST_F(CacheInt8, IsNotSharedWithWorkersThatDoNotRound) {
  Start({.prefill = 1,
         .decode = 2,
         .worker_flags = {"--blocks", "100", "--no-shared-memory"},
         .decode_flags = {"--kv", "int8"}});
  const std::string exact = cluster_->SocketOf("prefill-0");
  EXPECT_EQ(ComputedElsewhere({.holders = {exact}, .prefill = exact}), kPrompt);

  auto stub = v1::Blocks::NewStub(OpenChannel(exact));
  grpc::ClientContext context;
  const auto stream = stub->Pull(&context);
  v1::PullMessage message;
  KeysToProto(Keys(prompt_), *message.mutable_pull()->mutable_keys());
  *message.mutable_pull()->mutable_format() = Packed(Format());
  stream->Write(message);
  stream->WritesDone();
  v1::KvFrame frame;
  while (stream->Read(&frame)) {
  }
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), testing::HasSubstr("encoding is '' here, 'int8' there"));
}

}  // namespace
}  // namespace chorale
