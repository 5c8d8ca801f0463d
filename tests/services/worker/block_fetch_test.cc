#include "services/worker/block_fetch.h"

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "cache/block_key.h"
#include "kernels/tensor.h"
#include "model/checkpoint/random_checkpoint.h"
#include "rpc/blocks/convert_blocks.h"
#include "tests/services/worker/fake_blocks.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

using kernels::kBlockTokens;
using testing::ElementsAreArray;

constexpr int kTokens = 6;  // that a request generates

std::unique_ptr<Worker> LoadWorker(const std::string& folder, int blocks = 256) {
  WorkerOptions options{.catalog = {.base = folder, .models = {{.name = "m"}}},
                        .kernels = "reference",
                        .dtype = "f32",
                        .threads = 1,
                        .shared_memory = false,
                        .engine = {.blocks = blocks}};
  auto worker = std::make_unique<Worker>(std::move(options));
  const absl::Status status = worker->Load();
  EXPECT_TRUE(status.ok()) << status;
  return worker;
}

// A prompt of so many full blocks and `tail` tokens, and the one that decode begins with.
std::vector<TokenId> Prompt(int blocks, int tail = 0) {
  std::vector<TokenId> prompt(blocks * kBlockTokens + tail + 1);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>((17 * i + 5) % 250);
  return prompt;
}

// What a request gave, and what it asked the fetcher for first.
struct Answer {
  std::vector<TokenId> tokens;
  absl::Status status;
  Usage usage;
  NeedBlocksEvent need;
};

// A worker that fetches, and blocks as another one of the same weights wrote them.
class BlockFetchTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempFolder;
    WriteTinyModel(folder_->path());
    const std::unique_ptr<Worker> origin = LoadWorker(folder_->path());
    for (const auto& [blocks, tail] : {std::pair{1, 0}, {4, 0}, {4, 5}, {6, 0}, {60, 0}}) {
      const std::vector<TokenId> prompt = Prompt(blocks, tail);
      expected_[prompt.size()] = Generate(*origin, prompt, nullptr, {}).tokens;
      Write(*origin, prompt, written_);
    }
  }
  static void TearDownTestSuite() { delete std::exchange(folder_, nullptr); }

  void SetUp() override {
    for (auto& peer : peers_) peer->blocks = written_;
    prefill_->blocks = written_;
  }
  void TearDown() override { worker_->host()->Stop(); }  // before the fetcher goes

  static Answer Generate(Worker& worker, const std::vector<TokenId>& prompt, BlockFetcher* fetcher,
                         const FetchSources& sources) {
    return Await(*Start(worker, prompt, fetcher, sources));
  }

  // The blocks of a prompt, the last one too when it is open.
  static void Write(Worker& worker, const std::vector<TokenId>& prompt, FakeBlockMap& blocks) {
    Mailbox<FakeBlockMap> written;
    PrefillRequest request{.model = "m", .tokens = {prompt.begin(), prompt.end() - 1}};
    const RequestId id =
        worker.host()->Start(std::move(request), [&](Engine& engine, const EngineEvent& event) {
          const auto* prefill = std::get_if<PrefillEvent>(&event);
          if (prefill == nullptr || !prefill->done) return;
          FakeBlockMap of_prompt;
          for (int i = 0; i < prefill->blocks_done; ++i) {
            const Engine::BlockView block = engine.ReadBlock(prefill->id, i);
            of_prompt[block.key] = {block.checksum, {block.bytes.begin(), block.bytes.end()}};
          }
          written.Put(std::move(of_prompt));
        });
    std::optional<FakeBlockMap> of_prompt = written.Take();
    ASSERT_TRUE(of_prompt.has_value());
    blocks.merge(*of_prompt);
    worker.host()->ReleasePrefill(id);
  }

  struct Call {
    RequestId id = 0;
    Answer answer;  // the engine's thread's
    std::function<void()> cancel_fetch;
    Mailbox<Answer> done;
  };
  static std::shared_ptr<Call> Start(Worker& worker, const std::vector<TokenId>& prompt,
                                     BlockFetcher* fetcher, const FetchSources& sources) {
    auto call = std::make_shared<Call>();
    GenerateRequest request{.model = "m", .prompt = prompt};
    request.sampling = {.temperature = 0, .max_tokens = kTokens, .ignore_eos = true};
    request.await_blocks = fetcher != nullptr;
    call->id = worker.host()->Start(
        std::move(request), [call, fetcher, sources](Engine&, EngineEvent event) {
          if (auto* token = std::get_if<TokenEvent>(&event)) {
            call->answer.tokens.push_back(token->token);
          } else if (auto* need = std::get_if<NeedBlocksEvent>(&event)) {
            call->answer.need = *need;
            call->cancel_fetch = fetcher->Start(*need, sources);
          } else if (auto* finish = std::get_if<FinishEvent>(&event)) {
            if (call->cancel_fetch) call->cancel_fetch();
            call->answer.status = finish->status;
            call->answer.usage = finish->usage;
            call->done.Put(call->answer);
          }
        });
    return call;
  }
  static Answer Await(Call& call) {
    return call.done.Take().value_or(Answer{.status = absl::InternalError("no end")});
  }

  // Generates here, and compares with what the other worker made of the same prompt.
  Answer Fetch(const std::vector<TokenId>& prompt, const FetchSources& sources) {
    const Answer answer = Generate(*worker_, prompt, &fetcher_, sources);
    EXPECT_TRUE(answer.status.ok()) << answer.status;
    EXPECT_EQ(answer.tokens, expected_.at(prompt.size()));
    return answer;
  }
  // All were written but the last, with which decode begins.
  static void ExpectReceived(const Answer& answer, int tokens) {
    const Usage& usage = answer.usage;
    EXPECT_EQ(usage.transferred_tokens, tokens);
    EXPECT_EQ(usage.transferred_tokens + usage.computed_tokens + usage.cached_tokens,
              usage.prompt_tokens - 1);
  }

  static FetchSources From(const std::vector<std::pair<std::string, int>>& holders) {
    FetchSources sources{.deadline = absl::Now() + absl::Minutes(1)};
    for (const auto& [address, blocks] : holders) {
      sources.holders.push_back({address, blocks});
    }
    return sources;
  }
  FetchSources FromPrefill(const std::vector<TokenId>& prompt) {
    FetchSources sources = From({});
    sources.prefill_address = prefill_.address();
    sources.model = "m";
    sources.tokens.assign(prompt.begin(), prompt.end() - 1);
    return sources;
  }
  // The keys of what a prompt needs, as the worker names them.
  std::vector<BlockKey> Chain(const std::vector<TokenId>& prompt) {
    return MakeBlockKeys({prompt.data(), prompt.size() - 1}, worker_->base().digest(), {});
  }
  static std::vector<BlockKey> Slice(const std::vector<BlockKey>& keys, int begin, int end) {
    return {keys.begin() + begin, keys.begin() + end};
  }
  static std::vector<BlockKey> KeysOf(const v1::PullRequest& pull) {
    return KeysFromProto(pull.keys()).value_or(std::vector<BlockKey>());
  }
  int64_t Rejected() { return worker_->host()->stats().blocks_rejected; }

  static inline TempFolder* folder_ = nullptr;
  static inline FakeBlockMap written_;
  static inline std::map<size_t, std::vector<TokenId>> expected_;  // by the prompt's length

  FakeServer<FakeBlocks> peers_[2];
  FakeServer<FakePrefill> prefill_;
  Channels channels_;
  const std::unique_ptr<Worker> worker_ = LoadWorker(folder_->path());
  BlockFetcher fetcher_{{}, *worker_, channels_, nullptr};
};

// ---- From holders ----

TEST_F(BlockFetchTest, AsksAHolderForTheKeysThatAreMissing) {
  const Answer answer = Fetch(Prompt(4), From({{peers_[0].address(), 4}}));
  ExpectReceived(answer, 64);
  const v1::PullRequest pull = *peers_[0]->pulls.Take();
  ASSERT_EQ(answer.need.keys.size(), 4u);
  EXPECT_THAT(KeysOf(pull), ElementsAreArray(answer.need.keys));
  v1::KvFormat format = worker_->format();
  format.set_writer(std::string(answer.need.writer.AsBytes()));
  EXPECT_EQ(pull.format().SerializeAsString(), format.SerializeAsString());
  EXPECT_EQ(pull.shared_region(), "");
  EXPECT_EQ(fetcher_.stats().pulls, 1);
  EXPECT_EQ(fetcher_.stats().blocks_pulled, 4);
  EXPECT_EQ(fetcher_.stats().pulls_failed, 0);
  EXPECT_EQ(Rejected(), 0);
}

TEST_F(BlockFetchTest, AsksAHolderForNoMoreThanItHasOrThePromptNeeds) {
  ExpectReceived(Fetch(Prompt(4), From({{peers_[0].address(), 3}})), 48);
  EXPECT_EQ(peers_[0]->pulls.Take()->keys_size(), 3);
  // Four are here now, and a prompt of sixty needs no hundred.
  const Answer answer = Fetch(Prompt(60), From({{peers_[0].address(), 100}}));
  EXPECT_EQ(answer.need.first_block, 4);
  const auto pull = peers_[0]->pulls.Take();
  EXPECT_THAT(KeysOf(*pull), ElementsAreArray(answer.need.keys));
  ExpectReceived(answer, 56 * kBlockTokens);
}

TEST_F(BlockFetchTest, AsksNobodyWhoHasOnlyWhatIsHere) {
  Generate(*worker_, Prompt(4), nullptr, {});
  const Answer answer = Fetch(Prompt(6), From({{peers_[0].address(), 4}, {"", 0}, {"", -1}}));
  EXPECT_EQ(answer.need.first_block, 4);
  ExpectReceived(answer, 0);
  EXPECT_EQ(fetcher_.stats().pulls, 0);
}

TEST_F(BlockFetchTest, AsksOnlyTheHolderThatSavesTheMost) {
  ExpectReceived(Fetch(Prompt(6), From({{peers_[0].address(), 2}, {peers_[1].address(), 6}})), 96);
  EXPECT_EQ(peers_[0]->pulls.size(), 0u);
  EXPECT_EQ(peers_[1]->pulls.size(), 1u);
}

TEST_F(BlockFetchTest, AsksTheNextForTheRestWhenASourceDies) {
  peers_[1]->OnPull([this](FakeStream& stream, const std::vector<BlockKey>& keys) {
    peers_[1]->SendBlocks(stream, keys, 2);
    stream.End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "seeded"));
  });
  const Answer answer =
      Fetch(Prompt(6), From({{peers_[0].address(), 5}, {peers_[1].address(), 6}}));
  ExpectReceived(answer, 80);
  EXPECT_EQ(peers_[1]->pulls.Take()->keys_size(), 6);
  EXPECT_THAT(KeysOf(*peers_[0]->pulls.Take()), ElementsAreArray(Slice(answer.need.keys, 2, 5)));
  EXPECT_EQ(fetcher_.stats().pulls_failed, 1);
  EXPECT_EQ(fetcher_.stats().blocks_pulled, 5);
}

TEST_F(BlockFetchTest, ComputesWhenNobodyListens) {
  for (auto& peer : peers_) peer.Stop();
  ExpectReceived(Fetch(Prompt(4), From({{peers_[0].address(), 4}, {peers_[1].address(), 4}})), 0);
  EXPECT_EQ(fetcher_.stats().pulls_failed, 2);
}

TEST_F(BlockFetchTest, AsksOneThatFailedNoMore) {
  peers_[0]->OnPull([](FakeStream& stream, const std::vector<BlockKey>&) {
    stream.End(grpc::Status(grpc::StatusCode::INTERNAL, "seeded"));
  });
  ExpectReceived(Fetch(Prompt(4), From({{peers_[0].address(), 4}, {peers_[0].address(), 3}})), 0);
  EXPECT_EQ(peers_[0]->pulls.size(), 1u);
  EXPECT_EQ(fetcher_.stats().pulls_declined, 1);
}

TEST_F(BlockFetchTest, GivesUpAHolderThatIsSilent) {
  peers_[0]->OnPull([](FakeStream&, const std::vector<BlockKey>&) {});
  FetchSources sources = From({{peers_[0].address(), 4}});
  sources.deadline = absl::InfiniteFuture();
  ExpectReceived(Fetch(Prompt(4), sources), 0);
  EXPECT_TRUE(peers_[0]->cancels.Take().has_value());
  EXPECT_EQ(fetcher_.stats().pulls_failed, 1);
}

// ---- What holders send ----

TEST_F(BlockFetchTest, ComputesFromABadBlockOn) {
  peers_[0]->OnPull([this](FakeStream& stream, const std::vector<BlockKey>& keys) {
    for (int i = 0; i < 4; ++i) {
      FakeBlock block = written_.at(keys[i]);
      if (i == 1) block.bytes[100] ^= std::byte{1};
      SendBlock(stream, i, keys[i], block);
    }
    stream.End(grpc::Status::OK);
  });
  ExpectReceived(Fetch(Prompt(4), From({{peers_[0].address(), 4}})), 16);
  EXPECT_EQ(Rejected(), 1);
  EXPECT_EQ(fetcher_.stats().pulls_failed, 0);
}

TEST_F(BlockFetchTest, AsksTheNextForABadBlock) {
  peers_[1]->OnPull([this](FakeStream& stream, const std::vector<BlockKey>& keys) {
    FakeBlock bad = written_.at(keys[0]);
    bad.bytes.pop_back();
    SendBlock(stream, 0, keys[0], bad);                   // too short
    SendBlock(stream, 1, keys[0], written_.at(keys[0]));  // another one's key
    stream.End(grpc::Status::OK);
  });
  const Answer answer =
      Fetch(Prompt(6), From({{peers_[0].address(), 5}, {peers_[1].address(), 6}}));
  ExpectReceived(answer, 80);
  EXPECT_EQ(Rejected(), 2);
  EXPECT_THAT(KeysOf(*peers_[0]->pulls.Take()), ElementsAreArray(Slice(answer.need.keys, 0, 5)));
}

TEST_F(BlockFetchTest, TakesOnlyWhatItAskedForAndOnce) {
  peers_[0]->OnPull([this](FakeStream& stream, const std::vector<BlockKey>& keys) {
    const FakeBlock& first = written_.at(keys[0]);
    SendBlock(stream, 0, keys[0], first);
    FakeBlock wrong = first;
    wrong.bytes[0] ^= std::byte{1};
    SendBlock(stream, 0, keys[0], wrong);  // again, when it is in place already
    SendBlock(stream, 2, keys[0], first);  // there are two
    SendBlock(stream, 1'000'000'000, keys[0], first);
    SendBlock(stream, 1, keys[1], written_.at(keys[1]));
    stream.End(grpc::Status::OK);
  });
  ExpectReceived(Fetch(Prompt(4), From({{peers_[0].address(), 2}})), 32);
  EXPECT_EQ(Rejected(), 0);
}

// ---- Pull or compute ----

class PullOrComputeTest : public BlockFetchTest, public testing::WithParamInterface<int> {};

// By what was measured here, whatever the machine; on most, the first is computed and the last not.
TEST_P(PullOrComputeTest, PullsWhatTakesLongerToCompute) {
  Generate(*worker_, std::vector<TokenId>(100, 3), nullptr, {});
  const double compute_us = worker_->host()->prompt_token_us() * kBlockTokens * GetParam();
  const int64_t bytes = GetParam() * worker_->base().kv_shape().block_bytes();
  const absl::Duration pull = TransferRates().Estimate("unknown", bytes);
  ASSERT_GT(compute_us, 0);
  const bool pulls = absl::Microseconds(compute_us) > pull;
  const Answer answer = Fetch(Prompt(GetParam()), From({{peers_[0].address(), GetParam()}}));
  ExpectReceived(answer, pulls ? GetParam() * kBlockTokens : 0);
  EXPECT_EQ(fetcher_.stats().pulls, pulls ? 1 : 0);
  EXPECT_EQ(fetcher_.stats().pulls_declined, pulls ? 0 : 1);
}

INSTANTIATE_TEST_SUITE_P(Blocks, PullOrComputeTest, testing::Values(1, 6, 60));

TEST_F(BlockFetchTest, SpreadsALargePullOverConnections) {
  constexpr int kBlocks = 17;  // of 512 KiB: more than 8 MiB
  const TempFolder folder;
  ModelConfig config = TinyConfig();
  config.heads = config.kv_heads = 16;
  config.head_dim = 128;
  ASSERT_TRUE(WriteRandomCheckpoint(folder.path(), config, kernels::DType::kF32, 1).ok());
  FakeServer<FakeBlocks> peer;
  {
    const auto origin = LoadWorker(folder.path(), 2 * kBlocks);
    Write(*origin, Prompt(kBlocks), peer->blocks);
  }
  const auto worker = LoadWorker(folder.path(), 2 * kBlocks);
  BlockFetcher fetcher({.channels = 2}, *worker, channels_, nullptr);
  const Answer answer =
      Generate(*worker, Prompt(kBlocks), &fetcher, From({{peer.address(), kBlocks}}));
  worker->host()->Stop();
  ExpectReceived(answer, kBlocks * kBlockTokens);
  ASSERT_EQ(peer->pulls.size(), 2u);
  const std::vector asked = {KeysOf(*peer->pulls.Take()), KeysOf(*peer->pulls.Take())};
  EXPECT_THAT(asked, testing::UnorderedElementsAre(Slice(answer.need.keys, 0, 8),
                                                   Slice(answer.need.keys, 8, kBlocks)));
  EXPECT_NE(peer->pull_connections.Take(), peer->pull_connections.Take());
}

// ---- From prefill workers ----

TEST_F(BlockFetchTest, LetsAPrefillWorkerWriteALongPrompt) {
  const std::vector<TokenId> prompt = Prompt(4, 5);
  prefill_->chain = Chain(prompt);
  const Answer answer = Fetch(prompt, FromPrefill(prompt));
  ExpectReceived(answer, 69);
  const v1::PrefillRequest run = *prefill_->runs.Take();
  EXPECT_EQ(run.first_block(), 0);
  EXPECT_EQ(run.model(), "m");
  EXPECT_EQ(run.tokens_size(), 69);
  EXPECT_EQ(run.format().writer(), answer.need.writer.AsBytes());
  EXPECT_EQ(run.format().layers(), worker_->format().layers());
  EXPECT_EQ(fetcher_.stats().pulls, 0);
}

TEST_F(BlockFetchTest, LetsAPrefillWorkerWriteWhatHoldersHaveNot) {
  const std::vector<TokenId> prompt = Prompt(4, 5);
  prefill_->chain = Chain(prompt);
  FetchSources sources = FromPrefill(prompt);
  sources.holders = From({{peers_[0].address(), 2}}).holders;
  ExpectReceived(Fetch(prompt, sources), 69);
  EXPECT_EQ(peers_[0]->pulls.Take()->keys_size(), 2);
  EXPECT_EQ(prefill_->runs.Take()->first_block(), 2);
}

TEST_F(BlockFetchTest, WritesAShortRestHere) {
  FetchSources sources = FromPrefill(Prompt(4, 5));
  sources.holders = From({{peers_[0].address(), 3}}).holders;
  ExpectReceived(Fetch(Prompt(4, 5), sources), 48);
  EXPECT_EQ(prefill_->runs.size(), 0u);
}

TEST_F(BlockFetchTest, ComputesTheRestWhenAPrefillWorkerDies) {
  const std::vector<TokenId> prompt = Prompt(4, 5);
  prefill_->chain = Chain(prompt);
  prefill_->blocks_sent_max = 2;
  prefill_->end = grpc::Status(grpc::StatusCode::UNAVAILABLE, "seeded");
  ExpectReceived(Fetch(prompt, FromPrefill(prompt)), 32);
  EXPECT_EQ(prefill_->runs.size(), 1u) << "asked again";
}

TEST_F(BlockFetchTest, EndsTheFetchOfARequestThatIsCancelled) {
  prefill_->ends = false;
  FetchSources sources = FromPrefill(Prompt(4));
  sources.deadline = absl::InfiniteFuture();
  const auto call = Start(*worker_, Prompt(4), &fetcher_, sources);
  ASSERT_TRUE(prefill_->runs.Take().has_value());
  worker_->host()->Cancel(call->id, absl::CancelledError("seeded"));
  EXPECT_EQ(Await(*call).status, absl::CancelledError("seeded"));
  EXPECT_TRUE(prefill_->cancels.Take().has_value());
}

// ---- From stores ----

class StoreFetchTest : public BlockFetchTest {
 protected:
  // The stores have little time to answer, and a busy machine may take it away: tries again then.
  // What `here` needs is here before.
  Answer FetchFromStores(const std::vector<TokenId>& prompt, const FetchSources& sources,
                         const std::vector<TokenId>& here = {1}) {
    for (int attempt = 0;; ++attempt) {
      Generate(*worker_, here, nullptr, {});
      Answer answer = Generate(*worker_, prompt, &from_stores_, sources);
      EXPECT_EQ(answer.tokens, expected_.at(prompt.size()));
      if (from_stores_.stats().pulls > 0 || attempt == 10) return answer;
      while (stores_.nodes_down() > 0) absl::SleepFor(absl::Milliseconds(5));
      worker_->host()->Do([](Engine& engine) { engine.EvictBlocks(""); });
    }
  }

  const std::vector<std::string> addresses_ = {peers_[0].address(), peers_[1].address()};
  StoreClient stores_{addresses_, 1, channels_};
  BlockFetcher from_stores_{{}, *worker_, channels_, &stores_};
};

TEST_F(StoreFetchTest, PullsFromEachStoreWhatIsThere) {
  const Answer answer = FetchFromStores(Prompt(60), From({}), /*here=*/Prompt(4));
  EXPECT_EQ(answer.need.first_block, 4);
  ExpectReceived(answer, 56 * kBlockTokens);
  std::map<std::string, std::vector<BlockKey>> keys;
  for (const BlockKey& key : answer.need.keys) keys[stores_.NodesOf(key).at(0)].push_back(key);
  for (auto& peer : peers_) {
    ASSERT_GT(peer->pulls.size(), 0u);
    EXPECT_THAT(KeysOf(*peer->pulls.Take()), ElementsAreArray(keys[peer.address()]));
  }
}

TEST_F(StoreFetchTest, PullsFromStoresWhatHoldersHaveNot) {
  FakeServer<FakeBlocks> holder;
  holder->blocks = written_;
  FetchSources sources = From({{holder.address(), 60}});
  holder->OnPull([&](FakeStream& stream, const std::vector<BlockKey>& keys) {
    holder->SendBlocks(stream, keys, 20);
    stream.End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "seeded"));
  });
  for (auto& peer : peers_) peer->blocks.erase(Chain(Prompt(60))[50]);
  const Answer answer = FetchFromStores(Prompt(60), sources);
  // Whoever is asked first, the stores' blocks end before the 50th.
  EXPECT_EQ(from_stores_.stats().pulls_failed, 1);
  EXPECT_GE(answer.usage.transferred_tokens, 50 * kBlockTokens);
  EXPECT_LT(answer.usage.transferred_tokens, 60 * kBlockTokens);
}

TEST_F(StoreFetchTest, AsksStoresForFullBlocksOnly) {
  ExpectReceived(FetchFromStores(Prompt(4, 5), From({})), 64);
  size_t asked = 0;
  for (auto& peer : peers_) {
    if (peer->pulls.size() > 0) asked += static_cast<size_t>(peer->pulls.Take()->keys_size());
  }
  EXPECT_EQ(asked, 4u);
}

TEST_F(StoreFetchTest, ComputesWhenTheStoresHaveNothing) {
  for (auto& peer : peers_) peer->blocks.clear();
  ExpectReceived(Generate(*worker_, Prompt(4), &from_stores_, From({})), 0);
  EXPECT_EQ(from_stores_.stats().pulls, 0);
}

TEST_F(StoreFetchTest, FetchesOnlyWhenThereIsSomebodyAndReuseIsAllowed) {
  EXPECT_FALSE(fetcher_.CanFetch(From({})));
  EXPECT_TRUE(fetcher_.CanFetch(From({{"a", 1}})));
  EXPECT_TRUE(fetcher_.CanFetch(FromPrefill(Prompt(1))));
  EXPECT_TRUE(from_stores_.CanFetch(From({})));
  FetchSources no_reuse = From({});
  no_reuse.reuse_prefix = false;
  EXPECT_FALSE(from_stores_.CanFetch(no_reuse));
  Generate(*worker_, Prompt(4), &from_stores_, no_reuse);
  for (auto& peer : peers_) EXPECT_EQ(peer->lookups.size(), 0u);
}

}  // namespace
}  // namespace chorale
