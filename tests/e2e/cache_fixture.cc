#include "tests/e2e/cache_fixture.h"

#include <fstream>
#include <map>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "model/random_checkpoint.h"
#include "rpc/channels.h"
#include "rpc/convert_blocks.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
CacheTest::CacheTest(const ModelConfig& config) : config_(config) {
  const absl::Status written =
      WriteRandomCheckpoint(model_.path(), config_, kernels::DType::kF32, /*seed=*/1);
  CHECK(written.ok()) << written;
  std::ofstream(model_.path() + "/tokenizer.json") << ByteTokenizerJson();
}

std::vector<int> CacheTest::RandomPrompt(unsigned seed, int tokens) {
  std::mt19937 random(seed);
  std::vector<int> prompt(tokens);
  for (int& token : prompt) token = static_cast<int>(random() % kTinyVocab);
  return prompt;
}

v1::KvFormat CacheTest::Format() const { return FormatOf(config_.kv_shape(kernels::DType::kF32)); }

void CacheTest::Start(ClusterOptions options) {
  options.model_folder = model_.path();
  std::vector<std::string> flags = {"--kernels", "reference", "--threads", "1", "--dtype", "f32"};
  flags.insert(flags.end(), options.worker_flags.begin(), options.worker_flags.end());
  options.worker_flags = std::move(flags);
  cluster_.emplace(options);
}

// Computed once for all tests of a program: they have one model.
std::vector<int> CacheTest::Undisturbed(const std::vector<int>& prompt) {
  static std::map<std::vector<int>, std::vector<int>> answers;
  std::vector<int>& answer = answers[prompt];
  if (answer.empty()) {
    cluster_.reset();
    Start({.prefill = 0, .decode = 1});
    answer = Ask("decode-0", prompt).tokens[0];
    cluster_.reset();
  }
  return answer;
}

v1::Sampling CacheTest::OneTurn() {
  v1::Sampling sampling;
  sampling.set_seed(5);
  sampling.set_max_tokens(kOutput);
  sampling.set_ignore_eos(true);
  return sampling;
}

Generation CacheTest::Ask(const std::string& id, const std::vector<int>& prompt,
                          const KvSources& sources) {
  v1::DecodeRequest request;
  request.set_model("m");
  request.mutable_prompt()->Assign(prompt.begin(), prompt.end());
  request.set_n(1);
  *request.mutable_sampling() = OneTurn();
  request.set_prefill_address(sources.prefill);
  for (const std::string& address : sources.holders) {
    v1::BlockHolder* holder = request.add_holders();
    holder->set_address(address);
    holder->set_blocks(static_cast<int>(Keys(prompt).size()));
  }
  auto stub = v1::Decode::NewStub(OpenChannel(cluster_->SocketOf(id)));
  Generation got = Generate(*stub, request);
  EXPECT_TRUE(got.status.ok()) << got.status.error_message();
  return got;
}

std::vector<BlockKey> CacheTest::Keys(const std::vector<int>& prompt) {
  grpc::ClientContext context;
  v1::RoutingTable table;
  CHECK(cluster_->control().GetRouting(&context, {}, &table).ok());
  const absl::StatusOr<Digest> writer =
      Digest::FromBytes(table.workers(0).models(0).prompt_writer());
  CHECK(writer.ok()) << writer.status();
  const size_t whole = (prompt.size() - 1) / kBlockTokens * kBlockTokens;
  return MakeBlockKeys({prompt.data(), whole}, *writer, {});
}

void CacheTest::WaitForBlocks(const std::string& id, const std::vector<int>& prompt, int blocks) {
  auto stub = v1::Blocks::NewStub(OpenChannel(cluster_->SocketOf(id)));
  v1::LookupRequest request;
  KeysToProto(Keys(prompt), *request.mutable_keys());
  CHECK(WaitFor([&] {
    grpc::ClientContext context;
    v1::LookupReply reply;
    return stub->Lookup(&context, request, &reply).ok() && reply.blocks() == blocks;
  })) << id;
}

void CacheTest::Forget(const std::string& id) {
  auto stub = v1::Blocks::NewStub(OpenChannel(cluster_->SocketOf(id)));
  grpc::ClientContext context;
  v1::EvictBlocksReply reply;
  const grpc::Status status = stub->Evict(&context, {}, &reply);
  CHECK(status.ok()) << id << ": " << status.error_message();
}

v1::TierStat CacheTest::Tier(const std::string& id, const std::string& tier) {
  const v1::StatBlocksReply reply = cluster_->BlockStat(id);
  for (const v1::TierStat& stat : reply.tiers()) {
    if (stat.tier() == tier) return stat;
  }
  CHECK(false) << id << " has no tier " << tier;
}

int64_t CacheTest::TierCounter(const std::string& id, const std::string& tier,
                               const std::string& counter) {
  const v1::TierStat stat = Tier(id, tier);
  const auto found = stat.counters().find(counter);
  CHECK(found != stat.counters().end()) << tier << " does not count " << counter;
  return found->second;
}

}  // namespace chorale
