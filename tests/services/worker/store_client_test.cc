#include "services/worker/store_client.h"

#include <algorithm>
#include <atomic>
#include <climits>
#include <map>
#include <memory>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cache/rendezvous.h"
#include "tests/services/worker/fake_blocks.h"

namespace chorale {
namespace {

using testing::ElementsAreArray;
using testing::IsEmpty;
using testing::UnorderedElementsAreArray;

constexpr absl::Duration kLong = absl::Minutes(1);
constexpr absl::Duration kShort = absl::Milliseconds(100);

// Two nodes, and a chain of which each has about half.
class StoreClientTest : public testing::Test {
 protected:
  StoreClientTest() {
    std::mt19937_64 random(7);
    for (int i = 0; i < 40; ++i) {
      BlockKey& key = keys_.emplace_back();
      for (uint8_t& byte : key.bytes) byte = static_cast<uint8_t>(random());
    }
    for (FakeServer<FakeBlocks>& node : nodes_) addresses_.push_back(node.address());
    // Whose a key is depends on the ports: both nodes need some of the chain.
    for (const BlockKey& key : keys_) places_[First(key)].push_back(places_all_++);
  }

  int First(const BlockKey& key) const { return RankNodes(key, addresses_, 1)[0]; }
  std::vector<BlockKey> KeysOf(int node) const {
    std::vector<BlockKey> keys;
    for (int place : places_.at(node)) keys.push_back(keys_[place]);
    return keys;
  }
  int CountOf(int node) const { return static_cast<int>(places_.at(node).size()); }

  std::unique_ptr<StoreClient> NewClient(int replicas = 1) {
    return std::make_unique<StoreClient>(addresses_, replicas, channels_);
  }
  // From now on questions wait in questions_[node].
  void Hold(int node) {
    nodes_[node]->OnLookup(
        [this, node](FakeBlocks::Question question) { questions_[node].Put(std::move(question)); });
  }
  // From now on it is answered at once.
  void Answer(int node, int blocks, const grpc::Status& status = grpc::Status::OK) {
    nodes_[node]->OnLookup([blocks, status](const FakeBlocks::Question& question) {
      question.answer(blocks, status);
    });
  }
  StoreClient::Found Lookup(StoreClient& client, const std::vector<BlockKey>& keys,
                            absl::Duration timeout) {
    Ask(client, keys, timeout);
    return found_.Take().value_or(StoreClient::Found{.blocks = -1});
  }
  void Ask(StoreClient& client, const std::vector<BlockKey>& keys, absl::Duration timeout) {
    client.Lookup(keys, timeout,
                  [this](StoreClient::Found found) { found_.Put(std::move(found)); });
  }
  // That `found` names every place up to its end once, at the node whose it is.
  void ExpectPartsCoverThePrefix(const StoreClient::Found& found) {
    std::vector<int> named;
    for (const StoreClient::Part& part : found.parts) {
      EXPECT_FALSE(part.places.empty());
      EXPECT_TRUE(std::is_sorted(part.places.begin(), part.places.end()));
      for (int place : part.places) EXPECT_EQ(part.address, addresses_[First(keys_[place])]);
      named.insert(named.end(), part.places.begin(), part.places.end());
    }
    std::vector<int> prefix;
    for (int i = 0; i < found.blocks; ++i) prefix.push_back(i);
    EXPECT_THAT(named, UnorderedElementsAreArray(prefix));
  }

  FakeServer<FakeBlocks> nodes_[2];
  Mailbox<FakeBlocks::Question> questions_[2];
  std::vector<std::string> addresses_;
  std::vector<BlockKey> keys_;
  std::map<int, std::vector<int>> places_;  // in keys_, by the node that they belong to
  int places_all_ = 0;
  Channels channels_;
  Mailbox<StoreClient::Found> found_;
};

TEST_F(StoreClientTest, AsksEachNodeForItsOwnKeysInTheirOrder) {
  auto client = NewClient();
  for (int node : {0, 1}) Answer(node, CountOf(node));
  const StoreClient::Found found = Lookup(*client, keys_, kLong);
  EXPECT_EQ(found.blocks, 40);
  ExpectPartsCoverThePrefix(found);
  for (int node : {0, 1})
    EXPECT_THAT(*nodes_[node]->lookups.Take(), ElementsAreArray(KeysOf(node)));
  EXPECT_EQ(client->nodes_down(), 0);
}

TEST_F(StoreClientTest, EndsThePrefixAtTheFirstKeyThatItsNodeLacks) {
  auto client = NewClient();
  for (int node : {0, 1}) {
    for (int has = 0; has < CountOf(node); ++has) {
      Answer(node, has);
      Answer(1 - node, CountOf(1 - node));
      const StoreClient::Found found = Lookup(*client, keys_, kLong);
      EXPECT_EQ(found.blocks, places_[node][has]);
      ExpectPartsCoverThePrefix(found);
    }
  }
}

TEST_F(StoreClientTest, EndsThePrefixWhereTheFirstNodeEnds) {
  auto client = NewClient();
  for (int has = 0; has < std::min(CountOf(0), CountOf(1)); ++has) {
    const int other = CountOf(1) - 1 - has;
    Answer(0, has);
    Answer(1, other);
    const StoreClient::Found found = Lookup(*client, keys_, kLong);
    EXPECT_EQ(found.blocks, std::min(places_[0][has], places_[1][other]));
    ExpectPartsCoverThePrefix(found);
  }
}

TEST_F(StoreClientTest, TellsWhenTheLastHasAnsweredAndOnlyThen) {
  auto client = NewClient();
  for (int node : {0, 1}) Hold(node);
  Ask(*client, keys_, kLong);
  const auto first = questions_[0].Take();
  const auto second = questions_[1].Take();
  second->answer(CountOf(1), grpc::Status::OK);
  first->answer(CountOf(0), grpc::Status::OK);
  EXPECT_EQ(found_.Take()->blocks, 40) << "nothing was left out";
  client = nullptr;
  EXPECT_EQ(found_.size(), 0u) << "told twice";
}

TEST_F(StoreClientTest, TakesALateAnswerForAMissAndItsNodeForDown) {
  auto client = NewClient();
  Hold(0);
  Answer(1, CountOf(1));
  int down = 0;
  Mailbox<StoreClient::Found> found;
  client->Lookup(keys_, kShort, [&](StoreClient::Found f) {
    down = client->nodes_down();
    found.Put(std::move(f));
  });
  const auto in_time = found.Take();
  ASSERT_TRUE(in_time.has_value());
  EXPECT_EQ(in_time->blocks, places_[0][0]);
  ExpectPartsCoverThePrefix(*in_time);
  EXPECT_EQ(down, 1);
  questions_[0].Take()->answer(CountOf(0), grpc::Status::OK);
  client = nullptr;
  EXPECT_EQ(found.size(), 0u) << "the late answer was told too";
}

TEST_F(StoreClientTest, TakesAnErrorForAMissAndItsNodeForDown) {
  for (const grpc::StatusCode code :
       {grpc::StatusCode::CANCELLED, grpc::StatusCode::UNAVAILABLE, grpc::StatusCode::INTERNAL}) {
    auto client = NewClient();
    Answer(0, CountOf(0), grpc::Status(code, "seeded"));
    Answer(1, CountOf(1));
    int down = 0;
    client->Lookup(keys_, kLong, [&](StoreClient::Found found) {
      down = client->nodes_down();
      found_.Put(std::move(found));
    });
    const auto found = found_.Take();
    ASSERT_TRUE(found.has_value());
    EXPECT_EQ(found->blocks, places_[0][0]) << "what a failed call says does not count";
    ExpectPartsCoverThePrefix(*found);
    EXPECT_EQ(down, 1);
  }
}

TEST_F(StoreClientTest, BoundsWhatANodeClaims) {
  auto client = NewClient();
  Answer(0, INT_MAX);
  Answer(1, INT_MAX);
  StoreClient::Found found = Lookup(*client, keys_, kLong);
  EXPECT_EQ(found.blocks, 40);
  ExpectPartsCoverThePrefix(found);
  Answer(0, -1);
  Answer(1, INT_MIN);
  found = Lookup(*client, keys_, kLong);
  EXPECT_EQ(found.blocks, 0);
  EXPECT_THAT(found.parts, IsEmpty());
}

TEST_F(StoreClientTest, AsksTheOtherReplicaWhenAStoreIsGone) {
  nodes_[0].Stop();
  for (const BlockKey& key : keys_) nodes_[1]->blocks[key] = {};
  auto client = NewClient(/*replicas=*/2);
  StoreClient::Found found = Lookup(*client, keys_, kLong);
  EXPECT_EQ(found.blocks, places_[0][0]);
  // Kept down, for the second that a failure counts may have passed on a busy machine.
  client->NoteFailure(addresses_[0]);
  found = Lookup(*client, keys_, kLong);
  EXPECT_EQ(found.blocks, 40);
  ASSERT_EQ(found.parts.size(), 1u);
  EXPECT_EQ(found.parts[0].address, addresses_[1]);
}

TEST_F(StoreClientTest, AsksForNothingBehindAKeyThatNobodyKeeps) {
  for (const BlockKey& key : keys_) nodes_[1]->blocks[key] = {};
  auto client = NewClient(/*replicas=*/1);
  client->NoteFailure(addresses_[0]);
  const StoreClient::Found found = Lookup(*client, keys_, kLong);
  EXPECT_EQ(found.blocks, places_[0][0]);
  ExpectPartsCoverThePrefix(found);
  EXPECT_EQ(nodes_[0]->lookups.size(), 0u);
  for (; nodes_[1]->lookups.size() > 0;) {
    EXPECT_EQ(nodes_[1]->lookups.Take()->size(), static_cast<size_t>(places_[0][0]));
  }
}

TEST_F(StoreClientTest, TellsAtOnceWhenThereIsNobodyToAsk) {
  auto client = NewClient();
  int told = 0;
  const auto on_found = [&](const StoreClient::Found& found) {
    EXPECT_EQ(found.blocks, 0);
    EXPECT_THAT(found.parts, IsEmpty());
    ++told;
  };
  client->Lookup({}, kLong, on_found);
  EXPECT_EQ(told, 1);
  for (const std::string& address : addresses_) client->NoteFailure(address);
  client->Lookup(keys_, kLong, on_found);
  EXPECT_EQ(told, 2);
  StoreClient({}, 1, channels_).Lookup(keys_, kLong, on_found);
  EXPECT_EQ(told, 3);
}

TEST_F(StoreClientTest, IsNotGoneBeforeItsQuestionsAre) {
  auto client = NewClient();
  for (int node : {0, 1}) Hold(node);
  std::atomic<bool> told = false;
  client->Lookup(keys_, kShort, [&](const StoreClient::Found&) { told = true; });
  client = nullptr;
  EXPECT_TRUE(told);
  for (int node : {0, 1}) questions_[node].Take()->answer(0, grpc::Status::OK);
}

TEST_F(StoreClientTest, NamesTheNodesOfAKeyWithoutThoseThatAreDown) {
  auto client = NewClient(/*replicas=*/2);
  auto of_one = NewClient(/*replicas=*/1);
  for (const BlockKey& key : keys_) {
    const std::string& first = addresses_[First(key)];
    const std::string& second = addresses_[1 - First(key)];
    EXPECT_THAT(client->NodesOf(key), testing::ElementsAre(first, second));
    EXPECT_THAT(of_one->NodesOf(key), testing::ElementsAre(first));
  }
  client->NoteFailure("nobody's address");
  EXPECT_EQ(client->nodes_down(), 0);
  client->NoteFailure(addresses_[0]);
  EXPECT_THAT(client->NodesOf(keys_[0]), testing::ElementsAre(addresses_[1]));
  EXPECT_EQ(client->nodes_down(), 1);
}

}  // namespace
}  // namespace chorale
