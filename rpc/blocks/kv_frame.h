// KvFrame as bytes, by hand: protobuf around the payload, the payload itself never copied through a
// std::string. Any protobuf client reads the same frames.
//
//   sender:    blocks --FrameWriter--> frames --EncodeKvFrame--> ByteBuffer
//   receiver:  ByteBuffer --DecodeKvFrame--> frame --PieceCursor--> runs of bytes of a block
//
// Nothing here copies a payload but FrameWriter, and only bytes that come without a hold.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <grpcpp/support/byte_buffer.h>

#include "absl/status/statusor.h"
#include "cache/block_key.h"
#include "chorale/v1/blocks.pb.h"
#include "rpc/limits.h"

namespace chorale {

// Serialises `header` (its payload must be empty) and appends `payload`, which is copied once, into
// the slice that gRPC sends from.
grpc::ByteBuffer EncodeKvFrame(const v1::KvFrame& header, std::span<const std::byte> payload);
// The same with a payload of several slices, which are sent as they lie.
grpc::ByteBuffer EncodeKvFrame(const v1::KvFrame& header, std::span<const grpc::Slice> payload);

// A received frame. Its pieces are sound: indices from 0, bytes from 1, the bytes of those without
// a shared offset add up to the payload, and a shared one ends its block.
struct DecodedKvFrame {
  v1::KvFrame header;                // without payload
  std::vector<grpc::Slice> payload;  // as gRPC received it, in as many slices
};

// DataLoss for bytes that are no KvFrame, or one whose pieces are not sound.
absl::StatusOr<DecodedKvFrame> DecodeKvFrame(const grpc::ByteBuffer& frame);

// What a block's last piece brings.
struct BlockEnd {
  BlockKey key;
  uint64_t checksum = 0;  // XXH3 of the whole block
};

// Walks the pieces of one frame, which it borrows and which must stay where it is. A piece that
// lies in several slices comes as several runs; a receiver appends runs anyway.
class PieceCursor {
 public:
  struct Run {
    int index = 0;                     // of the block
    std::span<const std::byte> bytes;  // appended to what the block has; empty when shared
    std::optional<BlockEnd> end;       // the block ends with this run
    // The whole block lies in the sender's region instead, `shared_bytes` of it from here.
    std::optional<int64_t> shared_offset;
    int64_t shared_bytes = 0;
  };

  explicit PieceCursor(const DecodedKvFrame& frame) : frame_(frame) {}
  // False: that was all.
  bool Next(Run& run);

 private:
  const DecodedKvFrame& frame_;
  int piece_ = 0;
  int64_t piece_done_ = 0;  // bytes of piece_ that were handed out
  size_t slice_ = 0;
  size_t slice_done_ = 0;
};

// Keeps bytes where they are while it lives; let go on a thread of gRPC's.
using BytesHold = std::shared_ptr<const void>;

// Cuts blocks into frames, in the order they are added: several small blocks in one, a large one
// over several. A block that fits in a frame is not cut. Not thread safe.
class FrameWriter {
 public:
  // Takes each finished frame, and how many bytes of payload it has.
  using EmitFn = std::function<void(grpc::ByteBuffer frame, int64_t payload_bytes)>;
  explicit FrameWriter(EmitFn emit, int64_t frame_bytes_max = kFrameBytesMax);

  // A whole block. With a hold the bytes are sent from where they lie, and must not change until
  // the hold is let go; without, they are copied.
  void Add(int index, const BlockEnd& end, std::span<const std::byte> bytes, BytesHold hold = {});
  // The next bytes of a block that is sent as it grows; `end` comes with the last.
  void AddPiece(int index, std::span<const std::byte> bytes, std::optional<BlockEnd> end,
                BytesHold hold = {});
  // A whole block of `bytes` at `offset` of the region that both sides have mapped.
  void AddShared(int index, const BlockEnd& end, int64_t offset, int64_t bytes);
  // The header of the frame that is gathered now, to set its usage or format.
  v1::KvFrame& header() { return header_; }
  // Emits what is gathered, if anything is.
  void Flush();

 private:
  void Append(int index, std::span<const std::byte> bytes, const std::optional<BlockEnd>& end,
              const BytesHold& hold);

  const EmitFn emit_;
  const int64_t frame_bytes_max_;
  v1::KvFrame header_;
  std::vector<grpc::Slice> payload_;
  int64_t payload_bytes_ = 0;
};

// Puts whole blocks together, for a receiver that does not know their place before they are whole.
// It trusts nothing: bytes and counts are bounded, and a block's pieces must follow one another.
// One per call; not thread safe.
class BlockAssembler {
 public:
  struct Block {
    int index = 0;
    BlockEnd end;
    std::vector<std::byte> bytes;
  };

  BlockAssembler(int64_t block_bytes_max, int64_t blocks_max)
      : block_bytes_max_(block_bytes_max), blocks_left_(blocks_max) {}

  // The blocks that `frame` completes; their checksums are not verified here. DataLoss when a block
  // is too long or broken off, when there are too many, or when they are in shared memory.
  absl::StatusOr<std::vector<Block>> Add(const DecodedKvFrame& frame);

 private:
  int64_t block_bytes_max_;
  int64_t blocks_left_;
  Block partial_;
};

}  // namespace chorale
