#include "rpc/blocks/kv_frame.h"

#include <algorithm>
#include <map>
#include <random>
#include <string>

#include <grpcpp/impl/codegen/proto_utils.h>
#include <gtest/gtest.h>

namespace chorale {
namespace {

std::vector<std::byte> RandomBytes(size_t size, std::mt19937& random) {
  std::vector<std::byte> bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

BlockEnd EndOf(int index) {
  BlockEnd end{.checksum = 1000u + index};
  end.key.bytes.fill(static_cast<uint8_t>('a' + index));
  return end;
}

v1::KvFrame HeaderOf(int index, int64_t bytes) {
  v1::KvFrame header;
  v1::KvPiece* piece = header.add_pieces();
  piece->set_index(index);
  piece->set_bytes(bytes);
  piece->set_key(std::string(EndOf(index).key.AsBytes()));
  piece->set_checksum(EndOf(index).checksum);
  return header;
}

grpc::ByteBuffer BufferOf(const std::string& bytes) {
  grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

// The same bytes in slices of any sizes, as a transport hands them over.
grpc::ByteBuffer CutUp(const std::string& bytes, std::mt19937& random) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size();) {
    const size_t size = std::min<size_t>(bytes.size() - at, random() % 40);
    slices.emplace_back(bytes.data() + at, size);
    at += size;
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

std::string StringOf(const grpc::ByteBuffer& buffer) {
  grpc::Slice slice;
  EXPECT_TRUE(buffer.DumpToSingleSlice(&slice).ok());
  return std::string(reinterpret_cast<const char*>(slice.begin()), slice.size());
}

std::vector<std::byte> PayloadOf(const DecodedKvFrame& frame) {
  std::vector<std::byte> bytes;
  PieceCursor cursor(frame);
  for (PieceCursor::Run run; cursor.Next(run);) {
    bytes.insert(bytes.end(), run.bytes.begin(), run.bytes.end());
  }
  return bytes;
}

absl::StatusCode CodeOf(const v1::KvFrame& frame) {
  return DecodeKvFrame(BufferOf(frame.SerializeAsString())).status().code();
}

TEST(KvFrame, IsOrdinaryProtobufToOthers) {
  std::mt19937 random(1);
  const std::vector<std::byte> payload = RandomBytes(1000, random);
  v1::KvFrame parsed;
  ASSERT_TRUE(parsed.ParseFromString(StringOf(EncodeKvFrame(HeaderOf(3, 1000), payload))));
  EXPECT_EQ(parsed.pieces(0).index(), 3);
  EXPECT_EQ(parsed.payload(),
            std::string(reinterpret_cast<const char*>(payload.data()), payload.size()));
}

TEST(KvFrame, ReadsWhatProtobufWrites) {
  v1::KvFrame frame = HeaderOf(2, 10);
  frame.set_payload("some bytes");
  const auto decoded = DecodeKvFrame(BufferOf(frame.SerializeAsString()));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->header.pieces(0).index(), 2);
  EXPECT_EQ(PayloadOf(*decoded).size(), 10u);
}

TEST(KvFrame, CarriesUsageWithoutPayload) {
  v1::KvFrame last;
  last.mutable_usage()->set_tokens_computed(7);
  const auto decoded = DecodeKvFrame(EncodeKvFrame(last, std::span<const std::byte>()));
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->header.usage().tokens_computed(), 7);
  EXPECT_TRUE(decoded->payload.empty());
}

TEST(KvFrame, TakesTheEmptyMessageForAFrameOfNothing) {
  const auto decoded = DecodeKvFrame(BufferOf(""));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_TRUE(PayloadOf(*decoded).empty());
}

TEST(KvFrame, SurvivesEveryTruncationAndFlippedByte) {
  std::mt19937 random(2);
  const std::string whole = StringOf(EncodeKvFrame(HeaderOf(1, 40), RandomBytes(40, random)));
  const auto read = [&](const std::string& bytes) {
    const auto frame = DecodeKvFrame(CutUp(bytes, random));
    if (frame.ok()) (void)PayloadOf(*frame);
  };
  for (size_t size = 0; size < whole.size(); ++size) read(whole.substr(0, size));
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string damaged = whole;
    for (int value = 0; value < 256; ++value) {
      damaged[i] = static_cast<char>(value);
      read(damaged);
    }
  }
}

TEST(KvFrame, RefusesATruncatedPayload) {
  std::mt19937 random(3);
  const std::string whole = StringOf(EncodeKvFrame(HeaderOf(1, 40), RandomBytes(40, random)));
  EXPECT_EQ(DecodeKvFrame(BufferOf(whole.substr(0, whole.size() - 1))).status().code(),
            absl::StatusCode::kDataLoss);
}

TEST(KvFrame, RefusesPiecesThatAreNotThePayload) {
  v1::KvFrame frame = HeaderOf(0, 10);
  frame.set_payload(std::string(9, 'x'));
  EXPECT_EQ(CodeOf(frame), absl::StatusCode::kDataLoss);
  frame.set_payload(std::string(11, 'x'));
  EXPECT_EQ(CodeOf(frame), absl::StatusCode::kDataLoss);
  frame.set_payload(std::string(10, 'x'));
  EXPECT_EQ(CodeOf(frame), absl::StatusCode::kOk);
}

TEST(KvFrame, RefusesPiecesThatMakeNoSense) {
  const auto with = [](auto change) {
    v1::KvFrame frame = HeaderOf(0, 10);
    frame.set_payload(std::string(10, 'x'));
    change(*frame.mutable_pieces(0));
    return CodeOf(frame);
  };
  EXPECT_EQ(with([](v1::KvPiece& piece) { piece.set_index(-1); }), absl::StatusCode::kDataLoss);
  EXPECT_EQ(with([](v1::KvPiece& piece) { piece.set_bytes(-10); }), absl::StatusCode::kDataLoss);
  EXPECT_EQ(with([](v1::KvPiece& piece) { piece.set_bytes(INT64_MAX); }),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(with([](v1::KvPiece& piece) { piece.set_key("short"); }), absl::StatusCode::kDataLoss);
}

TEST(KvFrame, RefusesSharedPiecesThatMakeNoSense) {
  const auto with = [](auto change) {
    v1::KvFrame frame = HeaderOf(0, 10);
    frame.mutable_pieces(0)->set_shared_offset(4096);
    change(*frame.mutable_pieces(0));
    return CodeOf(frame);
  };
  EXPECT_EQ(with([](v1::KvPiece&) {}), absl::StatusCode::kOk);
  EXPECT_EQ(with([](v1::KvPiece& piece) { piece.set_shared_offset(-1); }),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(with([](v1::KvPiece& piece) { piece.set_shared_offset(INT64_MAX - 9); }),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(with([](v1::KvPiece& piece) { piece.clear_key(); }), absl::StatusCode::kDataLoss);
}

// What a FrameWriter has emitted, put together again by index.
struct Received {
  std::map<int, std::vector<std::byte>> bytes;
  std::map<int, BlockEnd> ends;
  int frames = 0;

  FrameWriter::EmitFn Emit(int64_t frame_bytes_max, std::mt19937& random) {
    return [this, frame_bytes_max, &random](grpc::ByteBuffer frame, int64_t payload_bytes) {
      ++frames;
      EXPECT_LE(payload_bytes, frame_bytes_max);
      const auto decoded = DecodeKvFrame(CutUp(StringOf(frame), random));
      ASSERT_TRUE(decoded.ok()) << decoded.status();
      PieceCursor cursor(*decoded);
      for (PieceCursor::Run run; cursor.Next(run);) {
        std::vector<std::byte>& block = bytes[run.index];
        block.insert(block.end(), run.bytes.begin(), run.bytes.end());
        payload_bytes -= static_cast<int64_t>(run.bytes.size());
        if (!run.end.has_value()) continue;
        EXPECT_TRUE(ends.emplace(run.index, *run.end).second);
      }
      EXPECT_EQ(payload_bytes, 0);
    };
  }
};

// However large blocks and frames are, and whoever keeps the bytes, the same blocks come out.
TEST(FrameWriter, SendsBlocksThatComeOutAsTheyWere) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 200; ++round) {
    const int64_t frame_bytes_max = 1 + random() % 300;
    const int blocks = 1 + static_cast<int>(random() % 8);
    Received received;
    std::vector<std::shared_ptr<std::vector<std::byte>>> sent;
    {
      FrameWriter writer(received.Emit(frame_bytes_max, random), frame_bytes_max);
      for (int i = 0; i < blocks; ++i) {
        sent.push_back(
            std::make_shared<std::vector<std::byte>>(RandomBytes(1 + random() % 500, random)));
        writer.Add(i, EndOf(i), *sent[i], random() % 2 == 0 ? sent[i] : nullptr);
      }
      writer.Flush();
    }
    for (int i = 0; i < blocks; ++i) {
      EXPECT_EQ(received.bytes[i], *sent[i]);
      EXPECT_EQ(received.ends[i].key, EndOf(i).key);
      EXPECT_EQ(received.ends[i].checksum, EndOf(i).checksum);
      EXPECT_EQ(sent[i].use_count(), 1) << "a hold outlives its frame";
    }
  }
}

TEST(FrameWriter, SendsBlocksInLayersSideBySide) {
  std::mt19937 random(5);
  const std::vector<std::byte> a = RandomBytes(100, random);
  const std::vector<std::byte> b = RandomBytes(100, random);
  Received received;
  FrameWriter writer(received.Emit(kFrameBytesMax, random));
  for (size_t layer = 0; layer < 4; ++layer) {
    const auto end = [&](int i) { return layer == 3 ? std::optional(EndOf(i)) : std::nullopt; };
    writer.AddPiece(0, std::span(a).subspan(layer * 25, 25), end(0));
    writer.AddPiece(1, std::span(b).subspan(layer * 25, 25), end(1));
    writer.Flush();
    EXPECT_EQ(received.ends.size(), layer == 3 ? 2u : 0u);
  }
  EXPECT_EQ(received.frames, 4);
  EXPECT_EQ(received.bytes[0], a);
  EXPECT_EQ(received.bytes[1], b);
}

TEST(FrameWriter, DoesNotCutABlockThatFitsInAFrame) {
  std::vector<int> pieces;
  FrameWriter writer([&](grpc::ByteBuffer frame,
                         int64_t) { pieces.push_back(DecodeKvFrame(frame)->header.pieces_size()); },
                     100);
  const std::vector<std::byte> block(30);
  for (int i = 0; i < 7; ++i) writer.Add(i, EndOf(i), block);
  writer.Flush();
  EXPECT_EQ(pieces, (std::vector<int>{3, 3, 1}));
}

TEST(FrameWriter, SendsOffsetsOfSharedBlocks) {
  std::vector<PieceCursor::Run> runs;
  FrameWriter writer([&](grpc::ByteBuffer frame, int64_t payload_bytes) {
    EXPECT_EQ(payload_bytes, 0);
    const auto decoded = DecodeKvFrame(frame);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    PieceCursor cursor(*decoded);
    for (PieceCursor::Run run; cursor.Next(run);) runs.push_back(run);
  });
  for (int i = 0; i < 3 * kFramePiecesMax; ++i) writer.AddShared(i, EndOf(i % 20), 512 * i, 512);
  EXPECT_EQ(runs.size(), 3u * kFramePiecesMax) << "a full frame waits";
  for (size_t i = 0; i < runs.size(); ++i) {
    EXPECT_EQ(runs[i].shared_offset, static_cast<int64_t>(512 * i));
    EXPECT_EQ(runs[i].shared_bytes, 512);
    EXPECT_TRUE(runs[i].bytes.empty());
    EXPECT_TRUE(runs[i].end.has_value());
  }
}

TEST(FrameWriter, FlushesAHeaderWithoutPieces) {
  int frames = 0;
  FrameWriter writer([&](grpc::ByteBuffer, int64_t) { ++frames; });
  writer.Flush();
  EXPECT_EQ(frames, 0);
  writer.header().mutable_usage()->set_tokens_cached(1);
  writer.Flush();
  writer.Flush();
  EXPECT_EQ(frames, 1);
}

DecodedKvFrame FrameOf(const v1::KvFrame& header, size_t payload_bytes) {
  const std::vector<std::byte> payload(payload_bytes);
  auto frame = DecodeKvFrame(EncodeKvFrame(header, payload));
  EXPECT_TRUE(frame.ok()) << frame.status();
  return *std::move(frame);
}

TEST(BlockAssembler, RebuildsBlocksFromAnyCut) {
  const unsigned seed = std::random_device{}();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 100; ++round) {
    const int64_t frame_bytes_max = 1 + random() % 120;
    BlockAssembler assembler(50, 8);
    std::vector<std::vector<std::byte>> rebuilt;
    FrameWriter writer(
        [&](grpc::ByteBuffer frame, int64_t) {
          auto blocks = assembler.Add(*DecodeKvFrame(CutUp(StringOf(frame), random)));
          ASSERT_TRUE(blocks.ok()) << blocks.status();
          for (auto& block : *blocks) {
            EXPECT_EQ(block.end.checksum, 1000u + block.index);
            rebuilt.push_back(std::move(block.bytes));
          }
        },
        frame_bytes_max);
    std::vector<std::vector<std::byte>> sent;
    for (int i = 0; i < 8; ++i) {
      sent.push_back(RandomBytes(1 + random() % 50, random));
      writer.Add(i, EndOf(i), sent.back());
    }
    writer.Flush();
    EXPECT_EQ(rebuilt, sent);
  }
}

TEST(BlockAssembler, RefusesABlockThatIsTooLong) {
  BlockAssembler assembler(100, 4);
  v1::KvFrame unfinished;
  unfinished.add_pieces()->set_bytes(60);
  EXPECT_TRUE(assembler.Add(FrameOf(unfinished, 60)).ok());
  EXPECT_EQ(assembler.Add(FrameOf(unfinished, 60)).status().code(), absl::StatusCode::kDataLoss);
}

TEST(BlockAssembler, RefusesABlockThatBreaksOff) {
  BlockAssembler assembler(100, 4);
  v1::KvFrame unfinished;
  unfinished.add_pieces()->set_bytes(60);
  EXPECT_TRUE(assembler.Add(FrameOf(unfinished, 60)).ok());
  EXPECT_EQ(assembler.Add(FrameOf(HeaderOf(1, 10), 10)).status().code(),
            absl::StatusCode::kDataLoss);
}

TEST(BlockAssembler, RefusesMoreThanWasAskedFor) {
  BlockAssembler assembler(10, 1);
  EXPECT_TRUE(assembler.Add(FrameOf(HeaderOf(0, 10), 10)).ok());
  EXPECT_EQ(assembler.Add(FrameOf(HeaderOf(1, 10), 10)).status().code(),
            absl::StatusCode::kDataLoss);
}

TEST(BlockAssembler, RefusesBlocksInSharedMemory) {
  BlockAssembler assembler(10, 1);
  v1::KvFrame shared = HeaderOf(0, 10);
  shared.mutable_pieces(0)->set_shared_offset(0);
  EXPECT_EQ(assembler.Add(FrameOf(shared, 0)).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace chorale
