// KvFrame as bytes, by hand: protobuf around the payload, the payload itself never copied through a
// std::string. Any protobuf client reads the same frames.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <grpcpp/support/byte_buffer.h>

#include "absl/status/statusor.h"
#include "cache/block_key.h"
#include "chorale/v1/worker.pb.h"

namespace chorale {

// Serialises `header` (its payload must be empty) and appends `payload`, which is copied once, into
// the slice that gRPC sends from.
grpc::ByteBuffer EncodeKvFrame(const v1::KvFrame& header, std::span<const std::byte> payload);

// A received frame.
struct DecodedKvFrame {
  v1::KvFrame header;  // without payload
  grpc::Slice slice;
  size_t payload_begin = 0;
  size_t payload_bytes = 0;

  // A view of `slice`, found anew each time: gRPC keeps a small slice's bytes inside the object, so
  // they move when it moves.
  std::span<const std::byte> payload() const {
    return std::as_bytes(std::span(slice.begin() + payload_begin, payload_bytes));
  }
};

// DataLoss for bytes that are no KvFrame.
absl::StatusOr<DecodedKvFrame> DecodeKvFrame(const grpc::ByteBuffer& frame);

// Puts the byte stream of frames together into whole blocks. It trusts nothing: block sizes and
// counts are bounded by what was asked for. One per call; not thread safe.
class BlockAssembler {
 public:
  struct Block {
    int index = 0;
    BlockKey key;
    uint64_t checksum = 0;
    std::vector<std::byte> bytes;
  };

  BlockAssembler(int64_t block_bytes, int blocks_max)
      : block_bytes_(block_bytes), blocks_left_(blocks_max) {}

  // The blocks that `frame` completes. DataLoss when the frame ends more or fewer blocks than its
  // bytes do, or more than were asked for.
  absl::StatusOr<std::vector<Block>> Add(const DecodedKvFrame& frame);

 private:
  int64_t block_bytes_;
  int blocks_left_;
  std::vector<std::byte> partial_;
};

}  // namespace chorale
