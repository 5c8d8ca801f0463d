#include "rpc/kv_frame.h"

#include <random>
#include <string>

#include <grpcpp/impl/codegen/proto_utils.h>
#include <gtest/gtest.h>

#include "absl/strings/string_view.h"

namespace chorale {
namespace {

std::vector<std::byte> RandomBytes(size_t size, std::mt19937& random) {
  std::vector<std::byte> bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

v1::KvFrame HeaderOf(int index) {
  v1::KvFrame header;
  v1::KvBlock* block = header.add_blocks_ended();
  block->set_index(index);
  block->set_key(std::string(16, static_cast<char>('a' + index)));
  block->set_checksum(1000 + index);
  return header;
}

grpc::ByteBuffer BufferOf(const std::string& bytes) {
  grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

std::string BytesOf(const grpc::ByteBuffer& buffer) {
  grpc::Slice slice;
  EXPECT_TRUE(buffer.DumpToSingleSlice(&slice).ok());
  return std::string(reinterpret_cast<const char*>(slice.begin()), slice.size());
}

TEST(KvFrame, IsOrdinaryProtobufToOthers) {
  std::mt19937 random(1);
  const std::vector<std::byte> payload = RandomBytes(1000, random);
  v1::KvFrame parsed;
  ASSERT_TRUE(parsed.ParseFromString(BytesOf(EncodeKvFrame(HeaderOf(3), payload))));
  EXPECT_EQ(parsed.blocks_ended(0).index(), 3);
  EXPECT_EQ(parsed.payload(),
            std::string(reinterpret_cast<const char*>(payload.data()), payload.size()));
}

TEST(KvFrame, ReadsWhatProtobufWrites) {
  v1::KvFrame frame = HeaderOf(2);
  frame.set_payload("some bytes");
  const auto decoded = DecodeKvFrame(BufferOf(frame.SerializeAsString()));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->header.blocks_ended(0).index(), 2);
  EXPECT_EQ(decoded->payload().size(), 10u);
}

TEST(KvFrame, CarriesUsageWithoutPayload) {
  v1::KvFrame last;
  last.mutable_usage()->set_tokens_computed(7);
  const auto decoded = DecodeKvFrame(EncodeKvFrame(last, {}));
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->header.usage().tokens_computed(), 7);
  EXPECT_TRUE(decoded->payload().empty());
}

TEST(KvFrame, SurvivesEveryTruncationAndFlippedByte) {
  std::mt19937 random(2);
  const std::string whole = BytesOf(EncodeKvFrame(HeaderOf(1), RandomBytes(40, random)));
  for (size_t size = 0; size < whole.size(); ++size) {
    (void)DecodeKvFrame(BufferOf(whole.substr(0, size)));
  }
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string damaged = whole;
    for (int value = 0; value < 256; ++value) {
      damaged[i] = static_cast<char>(value);
      (void)DecodeKvFrame(BufferOf(damaged));
    }
  }
}

TEST(KvFrame, RefusesATruncatedPayload) {
  std::mt19937 random(3);
  const std::string whole = BytesOf(EncodeKvFrame(HeaderOf(1), RandomBytes(40, random)));
  EXPECT_EQ(DecodeKvFrame(BufferOf(whole.substr(0, whole.size() - 1))).status().code(),
            absl::StatusCode::kDataLoss);
}

// However the byte stream is cut into frames, the same blocks come out.
TEST(BlockAssembler, RebuildsBlocksFromAnyCut) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 200; ++round) {
    const int block_bytes = 1 + static_cast<int>(random() % 50);
    const int blocks = 1 + static_cast<int>(random() % 8);
    const std::vector<std::byte> stream = RandomBytes(block_bytes * blocks, random);
    BlockAssembler assembler(block_bytes, blocks);
    std::vector<std::byte> rebuilt;
    size_t at = 0;
    int next_block = 0;
    while (at < stream.size()) {
      const size_t size = std::min<size_t>(stream.size() - at, random() % 120);
      v1::KvFrame header;
      for (; (next_block + 1) * block_bytes <= static_cast<int>(at + size); ++next_block) {
        *header.add_blocks_ended() = HeaderOf(next_block).blocks_ended(0);
      }
      const auto frame = DecodeKvFrame(EncodeKvFrame(header, std::span(stream).subspan(at, size)));
      ASSERT_TRUE(frame.ok());
      const auto ended = assembler.Add(*frame);
      ASSERT_TRUE(ended.ok()) << ended.status();
      for (const auto& block : *ended) {
        EXPECT_EQ(block.checksum, 1000u + block.index);
        rebuilt.insert(rebuilt.end(), block.bytes.begin(), block.bytes.end());
      }
      at += size;
    }
    EXPECT_EQ(rebuilt, stream);
  }
}

TEST(BlockAssembler, RefusesABlockThatItsBytesDoNotEnd) {
  BlockAssembler assembler(100, 4);
  std::vector<std::byte> bytes(60);
  const auto frame = DecodeKvFrame(EncodeKvFrame(HeaderOf(0), bytes));
  EXPECT_EQ(assembler.Add(*frame).status().code(), absl::StatusCode::kDataLoss);
}

TEST(BlockAssembler, RefusesMoreThanWasAskedFor) {
  BlockAssembler assembler(10, 1);
  std::vector<std::byte> bytes(10);
  EXPECT_TRUE(assembler.Add(*DecodeKvFrame(EncodeKvFrame(HeaderOf(0), bytes))).ok());
  EXPECT_EQ(assembler.Add(*DecodeKvFrame(EncodeKvFrame(HeaderOf(1), bytes))).status().code(),
            absl::StatusCode::kDataLoss);
}

TEST(BlockAssembler, RefusesBytesThatNoBlockNames) {
  BlockAssembler assembler(10, 4);
  std::vector<std::byte> bytes(25);
  EXPECT_EQ(assembler.Add(*DecodeKvFrame(EncodeKvFrame({}, bytes))).status().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace chorale
