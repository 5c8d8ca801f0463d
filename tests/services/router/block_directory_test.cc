#include "services/router/block_directory.h"

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "chorale/v1/blocks.grpc.pb.h"
#include "rpc/blocks/convert_blocks.h"
#include "rpc/server.h"
#include "rpc/server_stream.h"
#include "tests/testing/mailbox.h"

namespace chorale {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

using WatchStream = ServerStream<v1::BlockEvents>;

// Not zero: the sum of keys would not tell whether that one is there.
BlockKey Key(int i) {
  return {.bytes = {1, static_cast<uint8_t>(i), static_cast<uint8_t>(i >> 8)}};
}
std::vector<BlockKey> Chain(int blocks) {
  std::vector<BlockKey> keys;
  for (int i = 0; i < blocks; ++i) keys.push_back(Key(i));
  return keys;
}

// What the directory says comes from threads of gRPC's: asks until it is so.
bool Eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

// A worker whose watches the test holds: it says what it is told to, also what no worker would.
class FakeWorker : public v1::Blocks::WithCallbackMethod_Watch<v1::Blocks::Service> {
 public:
  struct Call {
    v1::WatchBlocksRequest request;
    std::shared_ptr<WatchStream> stream;
  };

  FakeWorker() : server_(*RpcServer::Start("127.0.0.1:0", {this})), address_(server_->address()) {}
  ~FakeWorker() override { Stop(); }

  const std::string& address() const { return address_; }
  void Stop() { server_ = nullptr; }

  // Blocks come and go; what of it is said, and when, is the test's.
  void Add(int key) { log_.Append({.key = Key(key)}); }
  void Remove(int key) { log_.Append({.key = Key(key), .removed = true}); }
  v1::BlockEvents Since(uint64_t sequence) { return Of(*log_.Since(sequence, 1000)); }
  std::vector<v1::BlockEvents> Snapshot(size_t events_max = 1000) {
    std::vector<v1::BlockEvents> parts;
    for (const BlockEventBatch& part : log_.Snapshot(events_max)) parts.push_back(Of(part));
    return parts;
  }
  // It is another process from now on, with nothing.
  void Restart(uint64_t feed) {
    feed_ = feed;
    log_ = BlockEventLog(1000);
  }
  static void Say(WatchStream& stream, const v1::BlockEvents& events) { stream.Push(events, 1); }

  Mailbox<Call> calls;
  Mailbox<int> cancels;

 private:
  grpc::ServerWriteReactor<v1::BlockEvents>* Watch(grpc::CallbackServerContext*,
                                                   const v1::WatchBlocksRequest* request) override {
    auto stream = WatchStream::Create();
    stream->OnCancelled([this, raw = stream.get()] {
      raw->End(grpc::Status::CANCELLED);
      cancels.Put(0);
    });
    calls.Put({*request, stream});
    return stream.get();
  }
  v1::BlockEvents Of(const BlockEventBatch& batch) const {
    v1::BlockEvents events = ToProto(batch);
    events.set_feed(feed_);
    return events;
  }

  BlockEventLog log_{1000};
  uint64_t feed_ = 77;
  std::unique_ptr<RpcServer> server_;
  const std::string address_;
};

class BlockDirectoryTest : public testing::Test {
 protected:
  void SetUp() override {
    auto directory = BlockDirectory::Create(std::make_shared<Channels>(), "");
    ASSERT_TRUE(directory.ok()) << directory.status();
    directory_ = *std::move(directory);
  }

  // Who has how much of a chain, in order.
  std::vector<std::pair<std::string, int>> Find(int blocks, int count = 10) const {
    std::vector<std::pair<std::string, int>> found;
    for (const BlockHolder& holder : directory_->Find(Chain(blocks), count)) {
      found.push_back({holder.address, holder.blocks});
    }
    return found;
  }
  // How much of a long chain `worker` is said to have.
  int BlocksOf(const FakeWorker& worker) const {
    for (const auto& [address, blocks] : Find(1000, 100)) {
      if (address == worker.address()) return blocks;
    }
    return 0;
  }
  bool EventuallyHas(const FakeWorker& worker, int blocks) const {
    return Eventually([&] { return BlocksOf(worker) == blocks; });
  }
  // Watches `worker`, which has the first `blocks` of the chain.
  FakeWorker::Call Watch(FakeWorker& worker, int blocks) {
    for (int i = 0; i < blocks; ++i) worker.Add(i);
    addresses_.push_back(worker.address());
    directory_->SetHolders(addresses_);
    return TakeSnapshot(worker);
  }
  // The directory's next watch, answered with a snapshot.
  FakeWorker::Call TakeSnapshot(FakeWorker& worker) {
    FakeWorker::Call call =
        worker.calls.Take().value_or(FakeWorker::Call{{}, WatchStream::Create()});
    for (const v1::BlockEvents& part : worker.Snapshot()) FakeWorker::Say(*call.stream, part);
    return call;
  }
  bool EventuallyWhole(int holders) const {
    return Eventually([&] { return directory_->stats().holders_whole == holders; });
  }

  FakeWorker a_;
  FakeWorker b_;
  std::vector<std::string> addresses_;
  std::unique_ptr<BlockDirectory> directory_;  // goes first: it ends its watches
};

TEST_F(BlockDirectoryTest, NamesThoseWhoHaveLeadingBlocksTheMostFirst) {
  const auto call = Watch(a_, 3);
  EXPECT_EQ(call.request.feed(), 0u);
  Watch(b_, 5);
  ASSERT_TRUE(EventuallyWhole(2));
  const std::pair<std::string, int> a = {a_.address(), 3};
  const std::pair<std::string, int> b = {b_.address(), 5};
  EXPECT_THAT(Find(10), ElementsAre(b, a));
  EXPECT_THAT(Find(10, 1), ElementsAre(b));
  EXPECT_THAT(Find(10, 0), IsEmpty());
  EXPECT_THAT(Find(0), IsEmpty());
  EXPECT_EQ(directory_->stats().holders, 2);
  EXPECT_EQ(directory_->stats().blocks, 8);
  EXPECT_EQ(directory_->stats().views_broken, 0);
}

TEST_F(BlockDirectoryTest, FollowsWhatComesAndGoes) {
  const auto call = Watch(a_, 3);
  ASSERT_TRUE(EventuallyHas(a_, 3));
  a_.Add(3);
  FakeWorker::Say(*call.stream, a_.Since(3));
  EXPECT_TRUE(EventuallyHas(a_, 4));
  a_.Remove(1);
  FakeWorker::Say(*call.stream, a_.Since(4));
  EXPECT_TRUE(EventuallyHas(a_, 1));
  a_.Remove(0);
  FakeWorker::Say(*call.stream, a_.Since(5));
  EXPECT_TRUE(EventuallyHas(a_, 0));
  EXPECT_EQ(directory_->stats().blocks, 2);
  EXPECT_EQ(directory_->stats().holders_whole, 1);
  EXPECT_EQ(directory_->stats().views_broken, 0);
}

TEST_F(BlockDirectoryTest, TakesASnapshotInParts) {
  for (int i = 0; i < 10; ++i) a_.Add(i);
  directory_->SetHolders({a_.address()});
  const auto call = a_.calls.Take();
  ASSERT_TRUE(call.has_value());
  const std::vector<v1::BlockEvents> parts = a_.Snapshot(/*events_max=*/3);
  ASSERT_EQ(parts.size(), 4u);
  for (int i = 0; i < 3; ++i) FakeWorker::Say(*call->stream, parts[i]);
  EXPECT_TRUE(Eventually([&] { return directory_->stats().blocks == 9; }));
  EXPECT_EQ(directory_->stats().holders_whole, 0);
  FakeWorker::Say(*call->stream, parts[3]);
  EXPECT_TRUE(EventuallyWhole(1));
  EXPECT_EQ(BlocksOf(a_), 10);
  EXPECT_EQ(directory_->stats().views_broken, 0);
  EXPECT_EQ(a_.calls.size(), 0u);
}

// ---- Views that are not whole ----

TEST_F(BlockDirectoryTest, BeginsAnewWhenEventsWereLost) {
  const auto call = Watch(a_, 3);
  ASSERT_TRUE(EventuallyHas(a_, 3));
  a_.Remove(2);  // is not told
  a_.Add(3);
  FakeWorker::Say(*call.stream, a_.Since(4));
  EXPECT_TRUE(a_.cancels.Take().has_value());
  const auto again = a_.calls.Take();
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->request.feed(), 0u) << "asks for a snapshot";
  EXPECT_EQ(directory_->stats().holders_whole, 0);
  EXPECT_EQ(directory_->stats().views_broken, 1);
  EXPECT_EQ(BlocksOf(a_), 3) << "meanwhile what was known stands";
  FakeWorker::Say(*again->stream, a_.Snapshot().at(0));
  EXPECT_TRUE(EventuallyHas(a_, 2));
  EXPECT_EQ(directory_->stats().holders_whole, 1);
}

TEST_F(BlockDirectoryTest, BeginsAnewWhenTheDigestIsNotItsOwn) {
  const auto call = Watch(a_, 3);
  ASSERT_TRUE(EventuallyHas(a_, 3));
  a_.Add(3);
  v1::BlockEvents wrong = a_.Since(3);
  wrong.mutable_digest()->front() ^= 1;
  FakeWorker::Say(*call.stream, wrong);
  EXPECT_EQ(a_.calls.Take()->request.feed(), 0u);
  EXPECT_EQ(directory_->stats().views_broken, 1);
}

TEST_F(BlockDirectoryTest, BeginsAnewWhenTheEventsAreNone) {
  const auto call = Watch(a_, 3);
  ASSERT_TRUE(EventuallyHas(a_, 3));
  a_.Add(3);
  v1::BlockEvents mangled = a_.Since(3);
  mangled.mutable_events(0)->set_key("short");
  FakeWorker::Say(*call.stream, mangled);
  const auto again = TakeSnapshot(a_);
  EXPECT_EQ(again.request.feed(), 0u);
  EXPECT_TRUE(EventuallyHas(a_, 4));
  EXPECT_EQ(directory_->stats().views_broken, 1);
}

TEST_F(BlockDirectoryTest, BeginsAnewWhenASnapshotIsNotWhatItsDigestSays) {
  for (int i = 0; i < 3; ++i) a_.Add(i);
  directory_->SetHolders({a_.address()});
  v1::BlockEvents short_of_one = a_.Snapshot().at(0);
  short_of_one.mutable_events()->RemoveLast();
  FakeWorker::Say(*a_.calls.Take()->stream, short_of_one);
  EXPECT_EQ(TakeSnapshot(a_).request.feed(), 0u);
  EXPECT_TRUE(EventuallyHas(a_, 3));
  EXPECT_TRUE(EventuallyWhole(1));
  EXPECT_EQ(directory_->stats().views_broken, 1);
}

// ---- Watches that end ----

TEST_F(BlockDirectoryTest, GoesOnWhereAWatchEnded) {
  const auto call = Watch(a_, 3);
  ASSERT_TRUE(EventuallyHas(a_, 3));
  call.stream->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "seeded"));
  const auto again = a_.calls.Take();
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->request.feed(), 77u);
  EXPECT_EQ(again->request.after_sequence(), 3u);
  EXPECT_EQ(BlocksOf(a_), 3) << "what it had it still has";
  a_.Add(3);
  FakeWorker::Say(*again->stream, a_.Since(3));
  EXPECT_TRUE(EventuallyHas(a_, 4));
  EXPECT_EQ(directory_->stats().views_broken, 0);
}

TEST_F(BlockDirectoryTest, AsksForASnapshotWhenTheLastOneWasCutShort) {
  for (int i = 0; i < 10; ++i) a_.Add(i);
  directory_->SetHolders({a_.address()});
  const auto call = a_.calls.Take();
  ASSERT_TRUE(call.has_value());
  FakeWorker::Say(*call->stream, a_.Snapshot(/*events_max=*/3).at(0));
  call->stream->End(grpc::Status::OK);
  EXPECT_EQ(TakeSnapshot(a_).request.feed(), 0u);
  EXPECT_TRUE(EventuallyHas(a_, 10));
  EXPECT_TRUE(EventuallyWhole(1));
}

TEST_F(BlockDirectoryTest, ForgetsWhatAWorkerHadBeforeItWasRestarted) {
  const auto call = Watch(a_, 3);
  ASSERT_TRUE(EventuallyHas(a_, 3));
  a_.Restart(/*feed=*/78);
  a_.Add(0);
  call.stream->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "seeded"));
  const auto again = TakeSnapshot(a_);
  EXPECT_TRUE(EventuallyHas(a_, 1));
  EXPECT_EQ(directory_->stats().blocks, 1);
  again.stream->End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "seeded"));
  EXPECT_EQ(a_.calls.Take()->request.feed(), 78u) << "of the new process";
}

TEST_F(BlockDirectoryTest, ForgetsAWorkerThatIsNoHolderAnyMore) {
  Watch(a_, 3);
  const auto b = Watch(b_, 2);
  ASSERT_TRUE(EventuallyWhole(2));
  directory_->SetHolders({b_.address()});
  EXPECT_THAT(Find(10), ElementsAre(std::pair(b_.address(), 2)));
  EXPECT_EQ(directory_->stats().holders, 1);
  EXPECT_EQ(directory_->stats().blocks, 2);
  EXPECT_TRUE(a_.cancels.Take().has_value());
  b_.Add(2);
  FakeWorker::Say(*b.stream, b_.Since(2));
  EXPECT_TRUE(EventuallyHas(b_, 3)) << "the other's watch goes on";
  EXPECT_EQ(b_.cancels.size(), 0u);
}

// The end of its former watch, which may come later, is not the end of the new one.
TEST_F(BlockDirectoryTest, WatchesAWorkerThatComesBack) {
  Watch(a_, 3);
  ASSERT_TRUE(EventuallyHas(a_, 3));
  for (int i = 0; i < 100; ++i) {
    directory_->SetHolders({});
    EXPECT_EQ(BlocksOf(a_), 0);
    directory_->SetHolders({a_.address()});
    EXPECT_EQ(TakeSnapshot(a_).request.feed(), 0u) << "nothing is known of it";
    ASSERT_TRUE(EventuallyHas(a_, 3)) << "the " << i << ". time";
    ASSERT_TRUE(a_.cancels.Take().has_value());
  }
  EXPECT_EQ(a_.calls.size(), 0u);
  EXPECT_EQ(a_.cancels.size(), 0u);
}

TEST_F(BlockDirectoryTest, KeepsTheNumberOfAHolderThatStays) {
  Watch(a_, 3);
  Watch(b_, 2);
  ASSERT_TRUE(EventuallyWhole(2));
  directory_->SetHolders({b_.address()});
  FakeWorker c;
  for (int i = 0; i < 4; ++i) c.Add(i);
  directory_->SetHolders({c.address(), b_.address()});
  TakeSnapshot(c);
  ASSERT_TRUE(EventuallyWhole(2));
  EXPECT_THAT(Find(10), ElementsAre(std::pair(c.address(), 4), std::pair(b_.address(), 2)));
  directory_ = nullptr;  // before c goes
}

TEST_F(BlockDirectoryTest, WatchesNoMoreHoldersThanTheIndexHas) {
  std::vector<std::string> addresses;
  for (int i = 0; i < PrefixIndex::kHoldersMax; ++i) {
    addresses.push_back("127.0.0.1:1");
    addresses.back() += std::string(static_cast<size_t>(i), '0');  // nobody's
  }
  addresses.push_back(a_.address());
  directory_->SetHolders(addresses);
  EXPECT_EQ(directory_->stats().holders, PrefixIndex::kHoldersMax);
  addresses.erase(addresses.begin());
  directory_->SetHolders(addresses);
  a_.Add(0);
  TakeSnapshot(a_);
  EXPECT_TRUE(EventuallyHas(a_, 1)) << "one has made room";
}

TEST_F(BlockDirectoryTest, WaitsForWorkersThatAreNotThereYet) {
  Watch(b_, 2);
  const std::string address = a_.address();
  a_.Stop();
  directory_->SetHolders({address, b_.address()});
  EXPECT_TRUE(EventuallyHas(b_, 2));
  EXPECT_EQ(directory_->stats().holders, 2);
  EXPECT_EQ(directory_->stats().holders_whole, 1);
}

TEST_F(BlockDirectoryTest, EndsItsWatchesWhenItGoes) {
  Watch(a_, 3);
  Watch(b_, 3);
  ASSERT_TRUE(EventuallyWhole(2));
  directory_ = nullptr;
  EXPECT_TRUE(a_.cancels.Take().has_value());
  EXPECT_TRUE(b_.cancels.Take().has_value());
}

TEST(BlockDirectory, RefusesARedisUrlThatIsNone) {
  EXPECT_EQ(BlockDirectory::Create(std::make_shared<Channels>(), "http://redis").status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace chorale
