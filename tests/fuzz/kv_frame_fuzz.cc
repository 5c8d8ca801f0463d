// Any bytes as the K/V frames of one call, and as blocks that are damaged on their way.
//
//   1 byte: bytes per slice, 0 for one slice | 2 bytes, little endian: bytes of a frame | the frame
//   and so on
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <google/protobuf/stubs/logging.h>
#include <grpcpp/impl/codegen/proto_utils.h>

#include "base/hash.h"
#include "rpc/blocks/kv_frame.h"

namespace {

using chorale::BlockAssembler;
using chorale::DecodedKvFrame;
using chorale::DecodeKvFrame;
using chorale::PieceCursor;

constexpr int64_t kBlockBytesMax = 300;
constexpr int64_t kBlocksMax = 8;

void Require(bool condition) {
  if (!condition) std::abort();
}

grpc::ByteBuffer CutUp(std::string_view bytes, size_t slice_bytes) {
  if (slice_bytes == 0) slice_bytes = std::max<size_t>(bytes.size(), 1);
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size(); at += slice_bytes) {
    slices.emplace_back(bytes.data() + at, std::min(slice_bytes, bytes.size() - at));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

std::string StringOf(const grpc::ByteBuffer& buffer) {
  grpc::Slice slice;
  Require(buffer.DumpToSingleSlice(&slice).ok());
  return std::string(reinterpret_cast<const char*>(slice.begin()), slice.size());
}

std::string_view TextOf(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// All bytes of the runs, each held against what a run promises.
std::string PayloadOf(const DecodedKvFrame& frame) {
  std::string payload;
  int ends = 0;
  PieceCursor cursor(frame);
  for (PieceCursor::Run run; cursor.Next(run);) {
    Require(run.index >= 0);
    if (run.shared_offset) {
      Require(run.bytes.empty() && run.end.has_value());
      Require(*run.shared_offset >= 0 && run.shared_bytes > 0);
      Require(run.shared_bytes <= std::numeric_limits<int64_t>::max() - *run.shared_offset);
    } else {
      Require(!run.bytes.empty() && run.shared_bytes == 0);
    }
    payload += TextOf(run.bytes);
    if (!run.end) continue;
    while (frame.header.pieces(ends).key().empty()) ++ends;
    Require(frame.header.pieces(ends).index() == run.index);
    Require(frame.header.pieces(ends).key() == run.end->key.AsBytes());
    Require(frame.header.pieces(ends).checksum() == run.end->checksum);
    ++ends;
  }
  for (; ends < frame.header.pieces_size(); ++ends) {
    Require(frame.header.pieces(ends).key().empty());
  }
  return payload;
}

// Protobuf reads the same, however the bytes are cut, and so do we what we write of it.
absl::StatusOr<DecodedKvFrame> Decode(std::string_view bytes, size_t slice_bytes) {
  absl::StatusOr<DecodedKvFrame> frame = DecodeKvFrame(CutUp(bytes, slice_bytes));
  const absl::StatusOr<DecodedKvFrame> whole = DecodeKvFrame(CutUp(bytes, 0));
  Require(frame.ok() == whole.ok());
  if (!frame.ok()) {
    Require(absl::IsDataLoss(frame.status()) && frame.status() == whole.status());
    return frame;
  }
  const std::string payload = PayloadOf(*frame);
  const std::string header = frame->header.SerializeAsString();
  Require(payload.size() <= bytes.size() && bytes.ends_with(payload));
  Require(whole->header.SerializeAsString() == header && PayloadOf(*whole) == payload);

  chorale::v1::KvFrame parsed;
  Require(parsed.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())));
  Require(parsed.payload() == payload);
  parsed.clear_payload();
  Require(parsed.SerializeAsString() == header);

  const auto again = DecodeKvFrame(chorale::EncodeKvFrame(frame->header, frame->payload));
  Require(again.ok() && again->header.SerializeAsString() == header);
  Require(PayloadOf(*again) == payload);
  return frame;
}

// What a receiver holds of a call's blocks, by the contract alone.
class Model {
 public:
  // Whether a call may go on with `frame`; else there is nothing to say of its blocks.
  bool Add(const DecodedKvFrame& frame) {
    blocks_.clear();
    PieceCursor cursor(frame);
    for (PieceCursor::Run run; cursor.Next(run);) {
      if (run.shared_offset || (!partial_.empty() && run.index != index_)) return false;
      index_ = run.index;
      partial_ += TextOf(run.bytes);
      if (partial_.size() > static_cast<size_t>(kBlockBytesMax)) return false;
      if (!run.end) continue;
      if (blocks_left_-- == 0) return false;
      blocks_.push_back({index_, std::exchange(partial_, {})});
    }
    return true;
  }
  const std::vector<std::pair<int, std::string>>& blocks() const { return blocks_; }

 private:
  std::vector<std::pair<int, std::string>> blocks_;  // that the last frame has completed
  int64_t blocks_left_ = kBlocksMax;
  int index_ = 0;
  std::string partial_;
};

void ReadFrames(std::string_view input) {
  BlockAssembler assembler(kBlockBytesMax, kBlocksMax);
  Model model;
  bool whole = true;
  while (input.size() >= 3) {
    const size_t slice_bytes = static_cast<uint8_t>(input[0]);
    const size_t size = static_cast<uint8_t>(input[1]) | static_cast<uint8_t>(input[2]) << 8;
    const auto frame = Decode(input.substr(3, size), slice_bytes);
    input.remove_prefix(std::min(3 + size, input.size()));
    whole = whole && frame.ok();  // the call ends with the first error
    if (!whole) continue;
    const auto blocks = assembler.Add(*frame);
    whole = blocks.ok();
    Require(model.Add(*frame) == whole);
    if (!whole) continue;
    Require(blocks->size() == model.blocks().size());
    for (size_t i = 0; i < blocks->size(); ++i) {
      Require((*blocks)[i].index == model.blocks()[i].first);
      Require(TextOf((*blocks)[i].bytes) == model.blocks()[i].second);
    }
  }
}

// Sends `input` as blocks of `block_bytes` with one bit flipped on the way: a block that matches
// its checksum then is one that was sent.
void FlipABit(std::span<const std::byte> input, size_t block_bytes, size_t frame_bytes, size_t at) {
  std::vector<std::string> frames;
  chorale::FrameWriter writer(
      [&](const grpc::ByteBuffer& frame, int64_t) { frames.push_back(StringOf(frame)); },
      static_cast<int64_t>(frame_bytes));
  std::vector<std::span<const std::byte>> sent;
  for (size_t begin = 0; begin < input.size() && sent.size() < kBlocksMax; begin += block_bytes) {
    const auto block = input.subspan(begin, std::min(block_bytes, input.size() - begin));
    chorale::BlockEnd end{.checksum = chorale::Checksum64(block)};
    end.key.bytes.fill(static_cast<uint8_t>(sent.size()));
    writer.Add(static_cast<int>(sent.size()), end, block);
    sent.push_back(block);
  }
  writer.Flush();
  const size_t flipped = at % (frames.size() + 1);  // one beyond: none is
  BlockAssembler assembler(kBlockBytesMax, kBlocksMax);
  size_t taken = 0;
  for (size_t i = 0; i < frames.size(); ++i) {
    std::string& bytes = frames[i];
    if (i == flipped) bytes[at % bytes.size()] ^= static_cast<char>(1 << (at / bytes.size() % 8));
    const auto frame = Decode(bytes, at % 50);
    if (!frame.ok()) return Require(i == flipped);
    const auto blocks = assembler.Add(*frame);
    if (!blocks.ok()) return Require(i >= flipped);
    for (const BlockAssembler::Block& block : *blocks) {
      if (chorale::Checksum64(block.bytes) != block.end.checksum) continue;
      const auto is_same = [&](auto bytes) { return TextOf(bytes) == TextOf(block.bytes); };
      Require(std::any_of(sent.begin(), sent.end(), is_same));
      ++taken;
    }
  }
  Require(flipped < frames.size() || taken == sent.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const google::protobuf::LogSilencer silencer;  // it tells of each string that is not UTF-8
  ReadFrames({reinterpret_cast<const char*>(data), size});
  if (size < 4) return 0;
  const size_t at = data[2] | data[3] << 8;
  FlipABit(std::as_bytes(std::span(data, size)).subspan(4), 1 + data[0], 20 + data[1], at);
  return 0;
}
