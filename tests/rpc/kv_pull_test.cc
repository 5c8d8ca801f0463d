#include "rpc/blocks/kv_pull.h"

#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "base/hash.h"
#include "chorale/v1/blocks.grpc.pb.h"
#include "rpc/bidi_stream.h"
#include "rpc/channels.h"
#include "rpc/raw_message.h"
#include "rpc/server.h"
#include "tests/testing/mailbox.h"

namespace chorale {
namespace {

using PullStream = BidiStream<grpc::ByteBuffer, grpc::ByteBuffer>;

// Hands each call's stream and what it says to the test.
class BlocksService : public v1::Blocks::WithRawCallbackMethod_Pull<v1::Blocks::Service> {
 public:
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Pull(
      grpc::CallbackServerContext*) override {
    auto stream = PullStream::Create();
    stream->OnMessage(
        [this](const grpc::ByteBuffer& bytes) {
          messages.Put(ParseMessage<v1::PullMessage>(bytes).value_or(v1::PullMessage()));
        },
        [this] { ends.Put(0); });
    stream->OnCancelled([this] { cancels.Put(0); });
    streams.Put(stream);
    return stream.get();
  }

  Mailbox<std::shared_ptr<PullStream>> streams;
  Mailbox<v1::PullMessage> messages;
  Mailbox<int> ends;
  Mailbox<int> cancels;
};

class KvPullTest : public testing::Test {
 protected:
  void SetUp() override {
    auto server = RpcServer::Start("127.0.0.1:0", {&service_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  // Begins a pull of one key whose frames go to frames_ and whose end goes to ends_, and returns
  // the sender's side of it.
  std::shared_ptr<PullStream> Start() {
    v1::PullMessage first;
    first.mutable_pull()->add_keys(std::string(16, 'k'));
    pull_ = KvPull::Start({.channel = channels_.Get(server_->address()),
                           .method = "/chorale.v1.Blocks/Pull",
                           .request = SerializeMessage(first),
                           .deadline = absl::Now() + absl::Minutes(1),
                           .on_frame =
                               [this](std::shared_ptr<const DecodedKvFrame> frame) {
                                 if (!drops_frames_) frames_.Put(std::move(frame));
                               },
                           .on_done = [this](const absl::Status& status) { ends_.Put(status); }});
    return service_.streams.Take().value_or(nullptr);
  }
  static void Send(PullStream& stream, int index) {
    const std::vector<std::byte> bytes(1000, static_cast<std::byte>(index));
    FrameWriter writer([&](grpc::ByteBuffer frame, int64_t payload_bytes) {
      stream.Push(std::move(frame), payload_bytes);
    });
    writer.Add(index, {.checksum = Checksum64(bytes)}, bytes);
    writer.Flush();
  }

  BlocksService service_;
  std::unique_ptr<RpcServer> server_;
  Channels channels_;
  std::shared_ptr<KvPull> pull_;
  std::atomic<bool> drops_frames_ = false;
  Mailbox<std::shared_ptr<const DecodedKvFrame>> frames_;
  Mailbox<absl::Status> ends_;
};

TEST_F(KvPullTest, BringsFramesInOrderAndThenTheStatus) {
  const auto stream = Start();
  ASSERT_NE(stream, nullptr);
  EXPECT_EQ(service_.messages.Take()->pull().keys_size(), 1);
  for (int i = 0; i < 50; ++i) Send(*stream, i);
  stream->End(grpc::Status(grpc::StatusCode::NOT_FOUND, "no more"));
  for (int i = 0; i < 50; ++i) {
    const auto frame = frames_.Take();
    ASSERT_TRUE(frame.has_value());
    PieceCursor cursor(**frame);
    PieceCursor::Run run;
    ASSERT_TRUE(cursor.Next(run));
    EXPECT_EQ(run.index, i);
  }
  EXPECT_EQ(ends_.Take(), absl::NotFoundError("no more"));
  EXPECT_TRUE(service_.ends.Take().has_value()) << "the sender hears of the end of its caller";
}

TEST_F(KvPullTest, ReadsTheNextFrameWhenTheLastIsLetGo) {
  const auto stream = Start();
  ASSERT_NE(stream, nullptr);
  Send(*stream, 0);
  Send(*stream, 1);
  stream->End(grpc::Status::OK);
  auto first = frames_.Take();
  ASSERT_TRUE(first.has_value());
  auto copy = *first;
  first->reset();
  EXPECT_EQ(frames_.size(), 0u);
  copy.reset();
  EXPECT_TRUE(frames_.Take().has_value());
  EXPECT_TRUE(ends_.Take()->ok());
}

TEST_F(KvPullTest, AcknowledgesUpToTheLastCount) {
  const auto stream = Start();
  ASSERT_NE(stream, nullptr);
  ASSERT_TRUE(service_.messages.Take()->has_pull());
  for (int taken = 1; taken <= 100; ++taken) pull_->Acknowledge(taken);
  int last = 0;
  while (last < 100) {
    const auto message = service_.messages.Take();
    ASSERT_TRUE(message.has_value());
    EXPECT_GT(message->blocks_taken(), last);
    last = message->blocks_taken();
  }
  stream->End(grpc::Status::OK);
  EXPECT_TRUE(ends_.Take()->ok());
  pull_->Acknowledge(101);  // too late, and no harm
}

TEST_F(KvPullTest, TellsTheSenderOfACancellation) {
  const auto stream = Start();
  ASSERT_NE(stream, nullptr);
  Send(*stream, 0);
  auto held = frames_.Take();
  ASSERT_TRUE(held.has_value());
  pull_->Cancel();
  EXPECT_TRUE(service_.cancels.Take().has_value());
  EXPECT_TRUE(service_.ends.Take().has_value());
  stream->End(grpc::Status::CANCELLED);
  EXPECT_EQ(ends_.size(), 0u) << "the end comes after the last frame was let go";
  held->reset();
  EXPECT_EQ(ends_.Take()->code(), absl::StatusCode::kCancelled);
  pull_->Cancel();  // too late, and no harm
}

TEST_F(KvPullTest, EndsACallThatSendsNoFrames) {
  const auto stream = Start();
  ASSERT_NE(stream, nullptr);
  grpc::Slice slice("\x0a\xff nonsense");
  stream->Push(grpc::ByteBuffer(&slice, 1), 1);
  EXPECT_TRUE(service_.cancels.Take().has_value());
  stream->End(grpc::Status::CANCELLED);
  EXPECT_EQ(ends_.Take()->code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(frames_.size(), 0u);
}

TEST_F(KvPullTest, LetsHoldsGoWhenTheCallerIsGone) {
  const auto stream = Start();
  ASSERT_NE(stream, nullptr);
  Mailbox<int> released;
  {
    const BytesHold hold(new std::vector<std::byte>(1 << 20), [&](const auto* bytes) {
      delete bytes;
      released.Put(0);
    });
    const auto& bytes = *static_cast<const std::vector<std::byte>*>(hold.get());
    FrameWriter writer([&](grpc::ByteBuffer frame, int64_t payload_bytes) {
      stream->Push(std::move(frame), payload_bytes);
    });
    for (int i = 0; i < 64; ++i) writer.Add(i, {}, bytes, hold);  // more than windows take
  }
  auto held = frames_.Take();
  ASSERT_TRUE(held.has_value());
  drops_frames_ = true;
  pull_->Cancel();
  EXPECT_TRUE(service_.cancels.Take().has_value());
  stream->End(grpc::Status::CANCELLED);
  held->reset();
  EXPECT_TRUE(ends_.Take().has_value());
  EXPECT_TRUE(released.Take().has_value());
}

TEST_F(KvPullTest, FailsWhenNobodyListens) {
  const std::string address = server_->address();
  server_ = nullptr;
  pull_ = KvPull::Start({.channel = channels_.Get(address),
                         .method = "/chorale.v1.Blocks/Pull",
                         .request = SerializeMessage(v1::PullMessage()),
                         .on_frame = [](auto) { FAIL(); },
                         .on_done = [this](const absl::Status& status) { ends_.Put(status); }});
  EXPECT_EQ(ends_.Take()->code(), absl::StatusCode::kUnavailable);
}

TEST(Channels, OpensAConnectionForEachNumber) {
  Channels channels;
  EXPECT_EQ(channels.Get("127.0.0.1:1"), channels.Get("127.0.0.1:1", 0));
  EXPECT_NE(channels.Get("127.0.0.1:1"), channels.Get("127.0.0.1:1", 1));
}

}  // namespace
}  // namespace chorale
