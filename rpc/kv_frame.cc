#include "rpc/kv_frame.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/wire_format_lite.h>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "rpc/limits.h"

namespace chorale {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;

constexpr uint32_t kPayloadTag =
    (v1::KvFrame::kPayloadFieldNumber << 3) | WireFormatLite::WIRETYPE_LENGTH_DELIMITED;

// Where a frame's payload begins, its size, and what stands before it. The payload is written last
// by EncodeKvFrame; a frame of another writer may have it anywhere, so fields behind it count too.
absl::Status ParseHeader(std::string_view bytes, v1::KvFrame& header, size_t& payload_begin,
                         size_t& payload_bytes) {
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  CodedInputStream in(data, static_cast<int>(bytes.size()));
  size_t header_end = bytes.size();
  payload_begin = bytes.size();
  payload_bytes = 0;
  while (true) {
    const int before = in.CurrentPosition();
    const uint32_t tag = in.ReadTag();
    if (tag == 0) break;
    if (tag == kPayloadTag) {
      uint32_t size = 0;
      if (!in.ReadVarint32(&size)) return absl::DataLossError("a K/V frame is cut short");
      payload_begin = static_cast<size_t>(in.CurrentPosition());
      payload_bytes = size;
      header_end = static_cast<size_t>(before);
      break;
    }
    if (!WireFormatLite::SkipField(&in, tag)) {
      return absl::DataLossError("a K/V frame is not a valid message");
    }
  }
  if (payload_begin + payload_bytes != bytes.size()) {
    return absl::DataLossError("a K/V frame does not end with its payload");
  }
  if (!header.ParseFromArray(data, static_cast<int>(header_end))) {
    return absl::DataLossError("a K/V frame is not a valid message");
  }
  return absl::OkStatus();
}

}  // namespace

grpc::ByteBuffer EncodeKvFrame(const v1::KvFrame& header, std::span<const std::byte> payload) {
  CHECK(header.payload().empty());
  const size_t header_bytes = header.ByteSizeLong();
  const uint32_t payload_bytes = static_cast<uint32_t>(payload.size());
  const size_t prefix = payload.empty() ? 0
                                        : CodedOutputStream::VarintSize32(kPayloadTag) +
                                              CodedOutputStream::VarintSize32(payload_bytes);
  grpc::Slice slice(header_bytes + prefix + payload.size());
  auto* out = const_cast<uint8_t*>(slice.begin());
  CHECK(header.SerializeToArray(out, static_cast<int>(header_bytes)));
  out += header_bytes;
  if (!payload.empty()) {
    out = CodedOutputStream::WriteVarint32ToArray(kPayloadTag, out);
    out = CodedOutputStream::WriteVarint32ToArray(payload_bytes, out);
    std::memcpy(out, payload.data(), payload.size());
  }
  return grpc::ByteBuffer(&slice, 1);
}

absl::StatusOr<DecodedKvFrame> DecodeKvFrame(const grpc::ByteBuffer& frame) {
  DecodedKvFrame decoded;
  grpc::Slice slice;
  // One contiguous slice: gRPC hands a message over in pieces of its own choosing, and the header
  // could straddle two of them.
  if (!frame.TrySingleSlice(&slice).ok() && !frame.DumpToSingleSlice(&slice).ok()) {
    return absl::DataLossError("a K/V frame cannot be read");
  }
  const std::string_view bytes(reinterpret_cast<const char*>(slice.begin()), slice.size());
  if (absl::Status status =
          ParseHeader(bytes, decoded.header, decoded.payload_begin, decoded.payload_bytes);
      !status.ok()) {
    return status;
  }
  decoded.slice = slice;
  return decoded;
}

absl::StatusOr<std::vector<BlockAssembler::Block>> BlockAssembler::Add(
    const DecodedKvFrame& frame) {
  std::vector<Block> blocks;
  std::span<const std::byte> left = frame.payload();
  for (const v1::KvBlock& ended : frame.header.blocks_ended()) {
    const size_t missing = static_cast<size_t>(block_bytes_) - partial_.size();
    if (left.size() < missing || blocks_left_ == 0) {
      return absl::DataLossError(absl::StrFormat(
          "a K/V frame ends block %d, which its bytes do not, or which was not asked for",
          ended.index()));
    }
    absl::StatusOr<BlockKey> key = BlockKey::FromBytes(ended.key());
    if (!key.ok()) return absl::DataLossError(key.status().message());
    partial_.insert(partial_.end(), left.begin(), left.begin() + missing);
    left = left.subspan(missing);
    blocks.push_back({.index = ended.index(),
                      .key = *key,
                      .checksum = ended.checksum(),
                      .bytes = std::move(partial_)});
    partial_.clear();
    --blocks_left_;
  }
  if (static_cast<int64_t>(partial_.size() + left.size()) >= block_bytes_) {
    return absl::DataLossError("a K/V frame carries a whole block but does not name it");
  }
  partial_.insert(partial_.end(), left.begin(), left.end());
  return blocks;
}

}  // namespace chorale
