// chorale.v1.Blocks of a real chorale-kvstore.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <numeric>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/hash.h"
#include "bench/fixtures/sample_blocks.h"
#include "bench/fixtures/store_process.h"
#include "rpc/blocks/shared_region.h"

namespace chorale {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

const char* const kProgram = CHORALE_BINARY_FOLDER "/chorale-kvstore";

int64_t SizeOf(uint64_t number) { return 20'000 + static_cast<int64_t>(number % 3) * 40'000; }

std::vector<uint64_t> Numbers(uint64_t begin, size_t count) {
  std::vector<uint64_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), begin);
  return numbers;
}

v1::PullMessage PullOf(const std::vector<uint64_t>& numbers) {
  v1::PullMessage message;
  for (const uint64_t number : numbers) {
    message.mutable_pull()->add_keys(std::string(KeyOf(number).AsBytes()));
  }
  *message.mutable_pull()->mutable_format() = TestFormat();
  return message;
}

class KvstoreServiceTest : public testing::Test {
 protected:
  KvstoreServiceTest() : folder_(MakeTempDir()) { Start(); }
  ~KvstoreServiceTest() override {
    stub_.reset();
    process_.reset();
    std::filesystem::remove_all(folder_);
  }

  void Start() {
    process_ = std::make_unique<StoreProcess>(
        kProgram, folder_,
        std::vector<std::string>{"--dram-mib", "64", "--disk-mib", "64", "--slab-mib", "1"});
    stub_ = process_->Connect();
  }
  v1::StatBlocksReply Stat() {
    grpc::ClientContext context;
    v1::StatBlocksReply reply;
    EXPECT_TRUE(stub_->Stat(&context, {}, &reply).ok());
    return reply;
  }
  // The writer holds blocks too, but not for ever.
  void AwaitNoHolds() {
    const absl::Time begin = absl::Now();
    while (Stat().tiers(0).holds() > 0) {
      ASSERT_LT(absl::Now() - begin, absl::Seconds(30)) << "blocks are still held";
    }
  }
  int Lookup(const std::vector<uint64_t>& numbers) {
    grpc::ClientContext context;
    v1::LookupRequest request;
    for (const uint64_t number : numbers) {
      request.add_keys(std::string(KeyOf(number).AsBytes()));
    }
    v1::LookupReply reply;
    EXPECT_TRUE(stub_->Lookup(&context, request, &reply).ok());
    return reply.blocks();
  }
  grpc::Status Push(const v1::KvFrame& frame, v1::PushReply& reply) {
    grpc::ClientContext context;
    const auto writer = stub_->Push(&context, &reply);
    writer->Write(frame);
    writer->WritesDone();
    return writer->Finish();
  }

  const std::string folder_;
  std::unique_ptr<StoreProcess> process_;
  std::unique_ptr<v1::Blocks::Stub> stub_;
};

TEST_F(KvstoreServiceTest, GivesBackAChainUpToTheFirstThatIsMissing) {
  const auto reply = PushBlocks(*stub_, Numbers(0, 100), SizeOf);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->blocks_taken(), 100);
  EXPECT_EQ(PushBlocks(*stub_, Numbers(50, 100), SizeOf)->blocks_present(), 50);
  EXPECT_EQ(Lookup(Numbers(0, 200)), 150);
  const Pulled pulled = PullBlocks(*stub_, Numbers(0, 200), SizeOf, true);
  EXPECT_TRUE(pulled.status.ok()) << pulled.status.error_message();
  EXPECT_EQ(pulled.blocks, 150);
  EXPECT_EQ(PullBlocks(*stub_, Numbers(1000, 5), SizeOf, true).blocks, 0);
  EXPECT_EQ(PullBlocks(*stub_, {}, SizeOf, true).blocks, 0);
}

TEST_F(KvstoreServiceTest, RefusesAnotherFormatWithBothValues) {
  PushBlocks(*stub_, Numbers(0, 3), SizeOf);
  grpc::ClientContext context;
  const auto stream = stub_->Pull(&context);
  v1::PullMessage message = PullOf({0});
  message.mutable_pull()->mutable_format()->set_dtype("bf16");
  stream->Write(message);
  v1::KvFrame frame;
  EXPECT_FALSE(stream->Read(&frame));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("dtype is 'f32' here, 'bf16' there"));
}

TEST_F(KvstoreServiceTest, KeepsNoFormatThatIsTooLongOrHasNoBlock) {
  v1::KvFrame frame;
  *frame.mutable_format() = TestFormat();
  frame.mutable_format()->set_dtype(std::string(300, 'x'));
  const auto push = [&] {
    grpc::ClientContext context;
    v1::PushReply reply;
    const auto writer = stub_->Push(&context, &reply);
    writer->Write(frame);
    writer->WritesDone();
    return writer->Finish();
  };
  EXPECT_TRUE(push().ok()) << "nobody needs its number";
  v1::KvPiece& piece = *frame.add_pieces();
  piece.set_bytes(3);
  piece.set_key(std::string(KeyOf(1).AsBytes()));
  frame.set_payload("abc");
  const grpc::Status status = push();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), testing::HasSubstr("at most 256"));
}

TEST_F(KvstoreServiceTest, NamesTheFieldOfABadRequest) {
  grpc::ClientContext pull_context;
  const auto stream = stub_->Pull(&pull_context);
  stream->Write({});
  grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), StartsWith("field 'pull'"));

  v1::PushReply reply;
  v1::KvFrame no_pieces;
  no_pieces.set_payload("abc");
  EXPECT_EQ(Push(no_pieces, reply).error_code(), grpc::StatusCode::DATA_LOSS);
  status = Push({}, reply);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), StartsWith("field 'format'"));

  grpc::ClientContext context;
  v1::EvictBlocksRequest request;
  request.set_tier("tape");
  v1::EvictBlocksReply evicted;
  EXPECT_THAT(stub_->Evict(&context, request, &evicted).error_message(),
              StartsWith("field 'tier': 'tape'"));
}

TEST_F(KvstoreServiceTest, RejectsBlocksThatWereDamagedOnTheWay) {
  v1::KvFrame frame;
  *frame.mutable_format() = TestFormat();
  for (const bool good : {true, false}) {
    const uint64_t number = good ? 1 : 2;
    std::vector<std::byte> bytes = BytesOf(number, 5000);
    v1::KvPiece& piece = *frame.add_pieces();
    piece.set_bytes(5000);
    piece.set_key(std::string(KeyOf(number).AsBytes()));
    piece.set_checksum(Checksum64(bytes));
    if (!good) bytes[4321] ^= std::byte{32};
    frame.mutable_payload()->append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  v1::PushReply reply;
  ASSERT_TRUE(Push(frame, reply).ok());
  EXPECT_EQ(reply.blocks_taken(), 1);
  EXPECT_EQ(reply.blocks_rejected(), 1);
  EXPECT_EQ(Lookup({1}), 1);
  EXPECT_EQ(Lookup({2}), 0);
}

TEST_F(KvstoreServiceTest, SendsBlocksByReferenceToWhoHasMappedTheRegion) {
  const std::vector<uint64_t> numbers = Numbers(0, 400);  // more than may be lent at once
  PushBlocks(*stub_, numbers, [](uint64_t) -> int64_t { return 5000; });
  v1::KvFrame frame;
  {
    grpc::ClientContext context;
    const auto stream = stub_->Pull(&context);
    stream->Write(PullOf({0}));
    ASSERT_TRUE(stream->Read(&frame));
    EXPECT_EQ(frame.payload().size(), 5000u);
    v1::KvFrame none;
    EXPECT_FALSE(stream->Read(&none));
    EXPECT_TRUE(stream->Finish().ok());
  }
  const auto mapped = MappedRegion::Open(frame.shared_region());
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  grpc::ClientContext context;
  const auto stream = stub_->Pull(&context);
  v1::PullMessage message = PullOf(numbers);
  message.mutable_pull()->set_shared_region((*mapped)->address());
  stream->Write(message);
  int taken = 0;
  while (stream->Read(&frame)) {
    EXPECT_TRUE(frame.payload().empty());
    for (const v1::KvPiece& piece : frame.pieces()) {
      ASSERT_TRUE(piece.has_shared_offset());
      const auto bytes = (*mapped)->At(piece.shared_offset(), piece.bytes());
      ASSERT_TRUE(bytes.ok());
      EXPECT_TRUE(IsBlock(numbers[static_cast<size_t>(taken)], *bytes));
      EXPECT_EQ(Checksum64(*bytes), piece.checksum());
      ++taken;
    }
    v1::PullMessage acknowledgement;
    acknowledgement.set_blocks_taken(taken);
    stream->Write(acknowledgement);
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(taken, 400);
  AwaitNoHolds();
}

TEST_F(KvstoreServiceTest, LetsGoOfWhatACancelledPullHeld) {
  PushBlocks(*stub_, Numbers(0, 200), [](uint64_t) -> int64_t { return 200'000; });
  {
    grpc::ClientContext context;
    const auto stream = stub_->Pull(&context);
    stream->Write(PullOf(Numbers(0, 200)));
    v1::KvFrame frame;
    ASSERT_TRUE(stream->Read(&frame));
    context.TryCancel();
    stream->Finish();
  }
  AwaitNoHolds();
}

TEST_F(KvstoreServiceTest, WritesAllToDiskWhenItIsToldToEnd) {
  PushBlocks(*stub_, Numbers(0, 200), SizeOf);
  stub_.reset();  // an idle connection answers a drain late
  process_->Stop(SIGTERM);
  Start();
  EXPECT_EQ(Lookup(Numbers(0, 200)), 200);
  EXPECT_EQ(PullBlocks(*stub_, Numbers(0, 200), SizeOf, true).blocks, 200);
}

TEST_F(KvstoreServiceTest, TellsListenersAndOperatorsWhatIsHere) {
  grpc::ClientContext watch_context;
  const auto watch = stub_->Watch(&watch_context, {});
  v1::BlockEvents events;
  ASSERT_TRUE(watch->Read(&events));
  EXPECT_TRUE(events.snapshot() && events.snapshot_done());
  PushBlocks(*stub_, Numbers(0, 10), SizeOf);
  std::map<std::string, bool> present;
  while (present.size() < 10 && watch->Read(&events)) {
    for (const v1::BlockEvent& event : events.events()) present[event.key()] = !event.removed();
  }
  EXPECT_EQ(events.last_sequence(), 10u);
  EXPECT_EQ(Stat().sequence(), 10u);
  EXPECT_EQ(Stat().digest(), events.digest());
  watch_context.TryCancel();
  watch->Finish();

  grpc::ClientContext context;
  v1::EvictBlocksRequest request;
  request.set_key_prefix(KeyOf(3).ToHex());
  v1::EvictBlocksReply reply;
  ASSERT_TRUE(stub_->Evict(&context, request, &reply).ok());
  EXPECT_GE(reply.blocks(), 1);
}

TEST_F(KvstoreServiceTest, SaysWhatToWriteInsteadOfBadFlags) {
  const auto exit_code = [&](const std::string& flags) {
    const std::string command =
        absl::StrCat(kProgram, " --listen unix:", folder_, "/b ", flags, " 2>> ", folder_, "/log");
    return WEXITSTATUS(std::system(command.c_str()));
  };
  EXPECT_EQ(exit_code(absl::StrCat("--dir ", folder_, "/disk --disk-mib 64 --slab-mib 1")), 2)
      << "in use";
  EXPECT_EQ(exit_code("--dram-mib 1"), 2);
  EXPECT_EQ(exit_code(absl::StrCat("--dir ", folder_, "/other --disk-mib 1")), 2);
  process_->Stop(SIGTERM);
  EXPECT_EQ(exit_code(absl::StrCat("--dir ", folder_, "/disk --disk-mib 80 --slab-mib 1")), 2)
      << "geometry";
}

TEST_F(KvstoreServiceTest, LogsNoPassword) {
  const std::string folder = folder_ + "/with_redis";
  std::filesystem::create_directory(folder);
  for (const char* url : {"redis://me:hunter2@127.0.0.1:1", "unix:///nowhere?password=hunter2"}) {
    StoreProcess(kProgram, folder, {"--dram-mib", "8", "--redis", url}).Stop(SIGTERM);
  }
  std::ifstream log(folder + "/log");
  const std::string text{std::istreambuf_iterator<char>(log), {}};
  EXPECT_THAT(text, testing::HasSubstr("redis=\"(hidden)@127.0.0.1:1\""));
  EXPECT_THAT(text, testing::HasSubstr("password=(hidden)"));
  EXPECT_EQ(text.find("hunter2"), text.npos);
}

}  // namespace
}  // namespace chorale
