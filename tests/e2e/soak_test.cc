// Thousands of requests, many cancelled or out of time, while workers and the store are killed and
// stopped: nothing wrong is said, and at the end nothing is held anywhere.
//
// CHORALE_SOAK_REQUESTS sets how many; CHORALE_SOAK_SEED repeats a run's draws.
#include <atomic>
#include <cstdlib>
#include <iostream>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <signal.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "chorale/v1/blocks.grpc.pb.h"
#include "rpc/blocks/convert_blocks.h"
#include "rpc/channels.h"
#include "rpc/deadline.h"
#include "tests/e2e/fixtures/processes.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

constexpr int kRequestsDefault = 1500;
constexpr int kRequestsPerFault = 100;
constexpr int kClients = 8;
constexpr int kConversations = 12;
constexpr int kConversationTokens = 400;
constexpr int kTurns = 20;  // a conversation is asked for at so many lengths
// A lease is ten seconds; the rest is for a loaded machine.
constexpr absl::Duration kLeaseAndSlack = absl::Seconds(40);

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

int Draw(std::mt19937_64& random, int low, int high) {
  return low + static_cast<int>(random() % static_cast<uint64_t>(high - low + 1));
}

bool OneIn(std::mt19937_64& random, int n) { return random() % static_cast<uint64_t>(n) == 0; }

// What the model says to each prompt, as far as anybody has heard: greedy answers to one prompt are
// the beginnings of one text, wherever and however often they are computed.
class Answers {
 public:
  // False: it is not what was heard before.
  bool Agree(int prompt, const std::vector<int>& tokens) {
    std::lock_guard lock(mutex_);
    std::vector<int>& longest = longest_[prompt];
    const size_t common = std::min(longest.size(), tokens.size());
    if (!std::equal(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(common),
                    longest.begin())) {
      return false;
    }
    if (tokens.size() > longest.size()) longest = tokens;
    return true;
  }

 private:
  std::mutex mutex_;
  std::map<int, std::vector<int>> longest_;  // by prompt; under mutex_
};

// A receiver that has mapped an owner's memory, asks for a block in it, and then says nothing more.
class SilentReceiver {
 public:
  explicit SilentReceiver(const std::string& address)
      : stub_(v1::Blocks::NewStub(OpenChannel(address))) {}

  // Whether the block is on loan now.
  bool Ask() {
    v1::PullMessage message;
    v1::PullRequest& pull = *message.mutable_pull();
    *pull.mutable_format() = FormatOf({.layers = TinyConfig().layers,
                                       .kv_heads = TinyConfig().kv_heads,
                                       .head_dim = TinyConfig().head_dim});
    {
      grpc::ClientContext context;
      v1::ListBlocksRequest one;
      one.set_limit(1);
      v1::BlockList list;
      const auto reader = stub_->List(&context, one);
      while (reader->Read(&list)) {
        for (const v1::BlockInfo& block : list.blocks()) pull.add_keys(block.key());
      }
      if (!reader->Finish().ok() || pull.keys_size() == 0) return false;
    }
    v1::KvFrame frame;
    {
      // The first call brings bytes, and the name of the memory they lie in.
      grpc::ClientContext context;
      const auto call = stub_->Pull(&context);
      if (!call->Write(message) || !call->Read(&frame)) return false;
      call->WritesDone();
      if (!call->Finish().ok()) return false;
    }
    pull.set_shared_region(frame.shared_region());
    call_.reset();  // of a former try, before its context
    context_ = std::make_unique<grpc::ClientContext>();
    SetDeadline(*context_, absl::Now() + kLeaseAndSlack);
    call_ = stub_->Pull(context_.get());
    return call_->Write(message) && call_->Read(&frame) && frame.pieces_size() == 1 &&
           frame.pieces(0).has_shared_offset();
  }

  // How the owner ends the call.
  grpc::Status End() {
    v1::KvFrame frame;
    while (call_->Read(&frame)) {
    }
    return call_->Finish();
  }

 private:
  const std::unique_ptr<v1::Blocks::Stub> stub_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::PullMessage, v1::KvFrame>> call_;
};

class Soak : public testing::Test {
 protected:
  // `prefill_flag`: whether blocks of the prefill worker are read from shared memory, as all others
  // are.
  void Start(const std::string& prefill_flag) {
    std::cout << "CHORALE_SOAK_SEED=" << seed_ << std::endl;
    std::mt19937_64 random(seed_);
    for (std::vector<int>& conversation : conversations_) {
      conversation.resize(kConversationTokens);
      for (int& token : conversation) token = Draw(random, 8, kTinyVocab - 1);
    }
    WriteTinyModel(folder_.path());
    cluster_ = std::make_unique<TestCluster>(ClusterOptions{
        .model_folder = folder_.path(),
        .prefill = 1,
        .decode = 2,
        .worker_flags = {"--kernels", "reference", "--threads", "1", "--blocks", "100"},
        .prefill_flags = {prefill_flag},
        .stores = 1,
        .store_disk = true,
        .store_flags = {"--dram-mib", "32", "--disk-mib", "64"}});
  }

  v1::GenerateRequest Ask(int prompt, std::mt19937_64& random) {
    v1::GenerateRequest request;
    request.set_model("m");
    const std::vector<int>& conversation = conversations_[prompt / kTurns];
    const int tokens = kConversationTokens / kTurns * (1 + prompt % kTurns);
    request.mutable_token_ids()->mutable_ids()->Assign(conversation.begin(),
                                                       conversation.begin() + tokens);
    request.mutable_sampling()->set_temperature(0);
    request.mutable_sampling()->set_max_tokens(Draw(random, 1, 40));
    request.mutable_sampling()->set_ignore_eos(true);
    if (OneIn(random, 10)) request.set_n(2);
    if (OneIn(random, 20)) request.set_no_prefix_reuse(true);
    return request;
  }

  // Asks until `requests_` were asked.
  void RunClient(int client) {
    std::mt19937_64 random(seed_ + 1 + static_cast<uint64_t>(client));
    while (asked_++ < requests_) {
      const int prompt = Draw(random, 0, kConversations * kTurns - 1);
      const v1::GenerateRequest request = Ask(prompt, random);
      const int chunks_max = OneIn(random, 3) ? Draw(random, 1, 20) : 1 << 30;
      const absl::Duration patience =
          OneIn(random, 5) ? absl::Milliseconds(Draw(random, 1, 150)) : absl::Seconds(60);
      const Generation got = Generate(cluster_->inference(), request, chunks_max, patience);
      for (const auto& [index, tokens] : got.tokens) {
        EXPECT_TRUE(answers_.Agree(prompt, tokens)) << request.ShortDebugString();
      }
      Note(got.status);
      ++done_;
    }
  }

  void Note(const grpc::Status& status) {
    std::lock_guard lock(mutex_);
    ++outcomes_[status.error_code()];
    switch (status.error_code()) {
      case grpc::StatusCode::OK:
      case grpc::StatusCode::CANCELLED:
      case grpc::StatusCode::DEADLINE_EXCEEDED:
      case grpc::StatusCode::UNAVAILABLE:  // its worker was killed
        break;
      default:
        ADD_FAILURE() << status.error_code() << ": " << status.error_message();
    }
  }

  // Something goes wrong every kRequestsPerFault requests.
  void RunFaults() {
    std::mt19937_64 random(seed_);
    for (int next = kRequestsPerFault / 2; next < requests_; next += kRequestsPerFault) {
      while (done_ < next) absl::SleepFor(absl::Milliseconds(2));
      const int victim = Draw(random, 0, 3);
      if (victim == 3) {
        Break(cluster_->store("store-0"), OneIn(random, 3),
              [&] { cluster_->StartStore("store-0"); });
        continue;
      }
      const std::string id = kWorkers[victim];
      Break(cluster_->worker(id), OneIn(random, 3), [&] { cluster_->StartWorker(id); });
      cluster_->WaitForWorkers(3);
    }
  }

  template <typename Restart>
  void Break(Process& process, bool stop, Restart restart) {
    EXPECT_TRUE(process.running()) << "it ended by itself";
    if (stop) {
      ++stops_;
      process.Signal(SIGSTOP);
      absl::SleepFor(absl::Seconds(1));
      process.Signal(SIGCONT);
      return;
    }
    ++kills_;
    process.Signal(SIGKILL);
    EXPECT_EQ(process.Wait(), -SIGKILL);
    restart();
  }

  // How long it took until nothing was held by a worker; InfiniteDuration: that never came.
  absl::Duration AwaitNothingHeld(const std::string& id) {
    const absl::Time begin = absl::Now();
    std::map<std::string, int64_t> m;
    do {
      m = cluster_->Metrics(id);
      EXPECT_EQ(m["blocks_free"] + m["blocks_held"], m["blocks_total"]) << id;
      if (m["blocks_held"] == 0 && m["blocks_on_loan"] == 0 && m["loans"] == 0 &&
          m["requests_live"] == 0) {
        return absl::Now() - begin;
      }
      absl::SleepFor(absl::Milliseconds(20));
    } while (absl::Now() - begin < kLeaseAndSlack);
    ADD_FAILURE() << id << ": " << m["blocks_held"] << " blocks held, " << m["blocks_on_loan"]
                  << " on loan to " << m["loans"] << " readers, " << m["requests_live"]
                  << " requests live";
    return absl::InfiniteDuration();
  }

  int64_t BlocksOfStore() {
    const v1::StatBlocksReply stat = cluster_->BlockStat("store-0");
    int64_t blocks = 0;
    for (const v1::TierStat& tier : stat.tiers()) blocks += tier.blocks();
    return blocks;
  }

  void ExpectStoreHoldsNothing() {
    EXPECT_TRUE(WaitFor([&] {
      const v1::StatBlocksReply stat = cluster_->BlockStat("store-0");
      int64_t holds = 0;
      for (const v1::TierStat& tier : stat.tiers()) holds += tier.holds();
      return holds == 0;
    })) << cluster_->BlockStat("store-0").DebugString();
  }

  static constexpr const char* kWorkers[] = {"prefill-0", "decode-0", "decode-1"};
  const uint64_t seed_ = FromEnvironment("CHORALE_SOAK_SEED", std::random_device{}());
  const int requests_ =
      static_cast<int>(FromEnvironment("CHORALE_SOAK_REQUESTS", kRequestsDefault));
  TempFolder folder_;
  std::vector<int> conversations_[kConversations];
  std::unique_ptr<TestCluster> cluster_;
  Answers answers_;
  std::atomic<int> asked_ = 0;
  std::atomic<int> done_ = 0;
  int kills_ = 0;  // the fault thread's
  int stops_ = 0;  // likewise
  std::mutex mutex_;
  std::map<int, int> outcomes_;  // by status code; under mutex_
};

TEST_F(Soak, NothingIsHeldAfterCancellationsKillsAndStops) {
  Start("--no-shared-memory");
  const absl::Time begin = absl::Now();
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) clients.emplace_back([this, i] { RunClient(i); });
  std::thread faults([this] { RunFaults(); });
  for (std::thread& client : clients) client.join();
  faults.join();
  const absl::Duration took = absl::Now() - begin;
  cluster_->WaitForWorkers(3);

  std::cout << requests_ << " requests in " << absl::FormatDuration(took) << ", " << kills_
            << " kills, " << stops_ << " stops:";
  for (const auto& [code, count] : outcomes_) std::cout << " " << count << " of status " << code;
  std::cout << std::endl;
  EXPECT_GT(outcomes_[grpc::StatusCode::OK], requests_ / 4);
  EXPECT_GT(outcomes_[grpc::StatusCode::CANCELLED], 0);
  EXPECT_GT(outcomes_[grpc::StatusCode::DEADLINE_EXCEEDED], 0);

  for (const char* id : kWorkers) {
    std::cout << id << ": nothing held after " << absl::FormatDuration(AwaitNothingHeld(id))
              << std::endl;
  }
  ExpectStoreHoldsNothing();
  // Since they last started:
  for (const char* id : kWorkers) {
    std::map<std::string, int64_t> m = cluster_->Metrics(id);
    std::cout << id << ": " << m["blocks_pulled"] << " blocks pulled in " << m["pulls"]
              << " calls, " << m["blocks_shared"] << " by shared memory; " << m["blocks_lent"]
              << " lent; " << m["preemptions"] << " preemptions" << std::endl;
    EXPECT_EQ(m["blocks_corrupt"], 0);
    EXPECT_EQ(m["blocks_rejected"], 0);
    cluster_->worker(id).Signal(SIGTERM);
    EXPECT_EQ(cluster_->worker(id).Wait(), 0) << id;
  }
}

TEST_F(Soak, ASilentReceiverLosesItsLease) {
  Start("--shared-memory");
  std::mt19937_64 random(seed_);
  // What a worker computes before it has heard of the store is not kept there.
  int prompt = kTurns - 1;
  ASSERT_TRUE(WaitFor([&] {
    const Generation got = Generate(cluster_->inference(), Ask(prompt, random));
    EXPECT_TRUE(got.status.ok()) << got.status.error_message();
    prompt = (prompt + kTurns) % (kConversations * kTurns);
    return BlocksOfStore() > 0;
  }));
  std::vector<std::unique_ptr<SilentReceiver>> receivers;
  for (const char* owner : {"store-0", "prefill-0"}) {
    receivers.push_back(std::make_unique<SilentReceiver>(cluster_->SocketOf(owner)));
    ASSERT_TRUE(WaitFor([&] { return receivers.back()->Ask(); })) << owner;
  }
  EXPECT_TRUE(WaitFor([&] { return cluster_->Metrics("prefill-0")["blocks_on_loan"] == 1; }));
  for (const auto& receiver : receivers) {
    const grpc::Status status = receiver->End();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << status.error_message();
  }
  EXPECT_TRUE(WaitFor([&] { return cluster_->Metrics("prefill-0")["leases_expired"] == 1; }));
  AwaitNothingHeld("prefill-0");
  ExpectStoreHoldsNothing();
}

}  // namespace
}  // namespace chorale
