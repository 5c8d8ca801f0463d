#include "rpc/blocks/kv_frame.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;

constexpr uint32_t kPayloadTag =
    (v1::KvFrame::kPayloadFieldNumber << 3) | WireFormatLite::WIRETYPE_LENGTH_DELIMITED;

// Where a frame's payload begins and what stands before it.
struct Parts {
  size_t header_bytes = 0;
  size_t payload_begin = 0;
};

// EncodeKvFrame writes the payload last, and so does protobuf, in the order of the fields.
absl::StatusOr<Parts> FindParts(grpc::ByteBuffer frame) {
  const size_t frame_bytes = frame.Length();
  if (frame_bytes == 0) return Parts{};
  grpc::ProtoBufferReader reader(&frame);
  if (!reader.status().ok()) return absl::DataLossError("a K/V frame cannot be read");
  CodedInputStream in(&reader);
  while (true) {
    const size_t before = static_cast<size_t>(in.CurrentPosition());
    const uint32_t tag = in.ReadTag();
    if (tag == 0) {
      if (!in.ConsumedEntireMessage()) break;
      return Parts{frame_bytes, frame_bytes};
    }
    if (tag == kPayloadTag) {
      uint32_t payload_bytes = 0;
      if (!in.ReadVarint32(&payload_bytes)) break;
      const size_t begin = static_cast<size_t>(in.CurrentPosition());
      if (begin + payload_bytes != frame_bytes) {
        return absl::DataLossError("a K/V frame does not end with its payload");
      }
      return Parts{before, begin};
    }
    if (!WireFormatLite::SkipField(&in, tag)) break;
  }
  return absl::DataLossError("a K/V frame is not a valid message");
}

absl::Status CheckPiece(const v1::KvPiece& piece) {
  if (piece.index() < 0 || piece.bytes() <= 0) {
    return absl::DataLossError(
        absl::StrFormat("a K/V piece of block %d has %d bytes", piece.index(), piece.bytes()));
  }
  if (!piece.key().empty()) {
    if (absl::Status key = BlockKey::FromBytes(piece.key()).status(); !key.ok()) {
      return absl::DataLossError(key.message());
    }
  }
  if (!piece.has_shared_offset()) return absl::OkStatus();
  if (piece.key().empty() || piece.shared_offset() < 0 ||
      piece.shared_offset() > std::numeric_limits<int64_t>::max() - piece.bytes()) {
    return absl::DataLossError(
        absl::StrFormat("a K/V piece of block %d at %d in shared memory is no whole block",
                        piece.index(), piece.shared_offset()));
  }
  return absl::OkStatus();
}

absl::Status CheckPieces(const v1::KvFrame& header, int64_t payload_bytes) {
  int64_t left = payload_bytes;
  for (const v1::KvPiece& piece : header.pieces()) {
    RETURN_IF_ERROR(CheckPiece(piece));
    if (piece.has_shared_offset()) continue;
    if (piece.bytes() > left) {
      return absl::DataLossError("the pieces of a K/V frame have more bytes than its payload");
    }
    left -= piece.bytes();
  }
  if (left > 0) {
    return absl::DataLossError("the pieces of a K/V frame have fewer bytes than its payload");
  }
  return absl::OkStatus();
}

// `header`, and the tag and size of a payload, in one slice with room for `extra` bytes behind.
grpc::Slice EncodeHeader(const v1::KvFrame& header, size_t payload_bytes, size_t extra,
                         uint8_t** behind) {
  CHECK(header.payload().empty());
  CHECK_LE(payload_bytes, static_cast<size_t>(kMessageBytesMax));
  const size_t header_bytes = header.ByteSizeLong();
  const auto size = static_cast<uint32_t>(payload_bytes);
  const size_t prefix = size == 0 ? 0
                                  : CodedOutputStream::VarintSize32(kPayloadTag) +
                                        CodedOutputStream::VarintSize32(size);
  grpc::Slice slice(header_bytes + prefix + extra);
  auto* out = const_cast<uint8_t*>(slice.begin());
  CHECK(header.SerializeToArray(out, static_cast<int>(header_bytes)));
  out += header_bytes;
  if (size > 0) {
    out = CodedOutputStream::WriteVarint32ToArray(kPayloadTag, out);
    out = CodedOutputStream::WriteVarint32ToArray(size, out);
  }
  if (behind != nullptr) *behind = out;
  return slice;
}

void SetEnd(const BlockEnd& end, v1::KvPiece& piece) {
  piece.set_key(std::string(end.key.AsBytes()));
  piece.set_checksum(end.checksum);
}

// A slice over bytes that `hold` keeps in place; gRPC lets the hold go with its last reference.
grpc::Slice ViewOf(std::span<const std::byte> bytes, const BytesHold& hold) {
  auto release = [](void* held) { delete static_cast<BytesHold*>(held); };
  return grpc::Slice(const_cast<std::byte*>(bytes.data()), bytes.size(), release,
                     new BytesHold(hold));
}

std::span<const std::byte> BytesOf(const grpc::Slice& slice) {
  return std::as_bytes(std::span(slice.begin(), slice.size()));
}

}  // namespace

grpc::ByteBuffer EncodeKvFrame(const v1::KvFrame& header, std::span<const std::byte> payload) {
  uint8_t* behind = nullptr;
  grpc::Slice slice = EncodeHeader(header, payload.size(), payload.size(), &behind);
  if (!payload.empty()) std::memcpy(behind, payload.data(), payload.size());
  return grpc::ByteBuffer(&slice, 1);
}

grpc::ByteBuffer EncodeKvFrame(const v1::KvFrame& header, std::span<const grpc::Slice> payload) {
  size_t bytes = 0;
  for (const grpc::Slice& slice : payload) bytes += slice.size();
  std::vector<grpc::Slice> slices;
  slices.reserve(payload.size() + 1);
  slices.push_back(EncodeHeader(header, bytes, 0, nullptr));
  slices.insert(slices.end(), payload.begin(), payload.end());
  return grpc::ByteBuffer(slices.data(), slices.size());
}

absl::StatusOr<DecodedKvFrame> DecodeKvFrame(const grpc::ByteBuffer& frame) {
  ASSIGN_OR_RETURN(const Parts parts, FindParts(frame));
  if (parts.header_bytes > kFrameHeaderBytesMax) {
    return absl::DataLossError(absl::StrFormat("a K/V frame's header has %d bytes, more than %d",
                                               parts.header_bytes, kFrameHeaderBytesMax));
  }
  DecodedKvFrame decoded;
  std::vector<grpc::Slice> slices;
  if (!frame.Dump(&slices).ok()) return absl::DataLossError("a K/V frame cannot be read");
  std::string header;
  size_t at = 0;
  for (const grpc::Slice& slice : slices) {
    const size_t header_here =
        std::min(parts.header_bytes - std::min(parts.header_bytes, at), slice.size());
    header.append(reinterpret_cast<const char*>(slice.begin()), header_here);
    const size_t skipped =
        std::min(parts.payload_begin - std::min(parts.payload_begin, at), slice.size());
    at += slice.size();
    if (skipped == slice.size()) continue;
    decoded.payload.push_back(skipped == 0 ? slice : slice.sub(skipped, slice.size()));
  }
  if (!decoded.header.ParseFromString(header)) {
    return absl::DataLossError("a K/V frame is not a valid message");
  }
  RETURN_IF_ERROR(
      CheckPieces(decoded.header, static_cast<int64_t>(frame.Length() - parts.payload_begin)));
  return decoded;
}

bool PieceCursor::Next(Run& run) {
  if (piece_ == frame_.header.pieces_size()) return false;
  const v1::KvPiece& piece = frame_.header.pieces(piece_);
  run = {.index = piece.index()};
  if (piece.has_shared_offset()) {
    run.shared_offset = piece.shared_offset();
    run.shared_bytes = piece.bytes();
    piece_done_ = piece.bytes();
  } else {
    // DecodeKvFrame has seen that the payload has all bytes of all pieces.
    while (slice_done_ == frame_.payload[slice_].size()) {
      ++slice_;
      slice_done_ = 0;
    }
    const std::span<const std::byte> slice = BytesOf(frame_.payload[slice_]);
    const size_t missing = static_cast<size_t>(piece.bytes() - piece_done_);
    run.bytes = slice.subspan(slice_done_, std::min(missing, slice.size() - slice_done_));
    slice_done_ += run.bytes.size();
    piece_done_ += static_cast<int64_t>(run.bytes.size());
  }
  if (piece_done_ < piece.bytes()) return true;
  if (!piece.key().empty()) {
    run.end = BlockEnd{.key = *BlockKey::FromBytes(piece.key()), .checksum = piece.checksum()};
  }
  ++piece_;
  piece_done_ = 0;
  return true;
}

FrameWriter::FrameWriter(EmitFn emit, int64_t frame_bytes_max)
    : emit_(std::move(emit)), frame_bytes_max_(frame_bytes_max) {
  CHECK_GT(frame_bytes_max_, 0);
}

void FrameWriter::Add(int index, const BlockEnd& end, std::span<const std::byte> bytes,
                      BytesHold hold) {
  AddPiece(index, bytes, end, std::move(hold));
}

void FrameWriter::AddPiece(int index, std::span<const std::byte> bytes, std::optional<BlockEnd> end,
                           BytesHold hold) {
  CHECK(!bytes.empty());
  const size_t frame_bytes = static_cast<size_t>(frame_bytes_max_);
  while (!bytes.empty()) {
    const size_t room = frame_bytes - static_cast<size_t>(payload_bytes_);
    if (bytes.size() > room && payload_bytes_ > 0) {
      Flush();
      continue;
    }
    const auto piece = bytes.first(std::min(bytes.size(), room));
    bytes = bytes.subspan(piece.size());
    Append(index, piece, bytes.empty() ? end : std::nullopt, hold);
  }
  if (payload_bytes_ == frame_bytes_max_) Flush();
}

void FrameWriter::Append(int index, std::span<const std::byte> bytes,
                         const std::optional<BlockEnd>& end, const BytesHold& hold) {
  v1::KvPiece* piece = header_.add_pieces();
  piece->set_index(index);
  piece->set_bytes(static_cast<int64_t>(bytes.size()));
  if (end.has_value()) SetEnd(*end, *piece);
  payload_.push_back(hold == nullptr ? grpc::Slice(bytes.data(), bytes.size())
                                     : ViewOf(bytes, hold));
  payload_bytes_ += static_cast<int64_t>(bytes.size());
}

void FrameWriter::AddShared(int index, const BlockEnd& end, int64_t offset, int64_t bytes) {
  CHECK_GE(offset, 0);
  CHECK_GT(bytes, 0);
  v1::KvPiece* piece = header_.add_pieces();
  piece->set_index(index);
  piece->set_bytes(bytes);
  piece->set_shared_offset(offset);
  SetEnd(end, *piece);
  if (header_.pieces_size() >= kFramePiecesMax) Flush();
}

void FrameWriter::Flush() {
  if (header_.ByteSizeLong() == 0) return;
  emit_(EncodeKvFrame(header_, payload_), payload_bytes_);
  header_.Clear();
  payload_.clear();
  payload_bytes_ = 0;
}

absl::StatusOr<std::vector<BlockAssembler::Block>> BlockAssembler::Add(
    const DecodedKvFrame& frame) {
  std::vector<Block> blocks;
  PieceCursor cursor(frame);
  PieceCursor::Run run;
  while (cursor.Next(run)) {
    if (run.shared_offset.has_value()) {
      return absl::DataLossError(absl::StrFormat(
          "block %d is said to be in shared memory, which was not asked for", run.index));
    }
    if (!partial_.bytes.empty() && partial_.index != run.index) {
      return absl::DataLossError(absl::StrFormat("block %d breaks off after %d bytes",
                                                 partial_.index, partial_.bytes.size()));
    }
    partial_.index = run.index;
    if (run.bytes.size() > static_cast<size_t>(block_bytes_max_) - partial_.bytes.size()) {
      return absl::DataLossError(absl::StrFormat("block %d has more than the %d bytes of a block",
                                                 run.index, block_bytes_max_));
    }
    partial_.bytes.insert(partial_.bytes.end(), run.bytes.begin(), run.bytes.end());
    if (!run.end.has_value()) continue;
    if (blocks_left_ == 0) {
      return absl::DataLossError(absl::StrFormat("block %d is more than was asked for", run.index));
    }
    --blocks_left_;
    partial_.end = *run.end;
    blocks.push_back(std::exchange(partial_, {}));
  }
  return blocks;
}

}  // namespace chorale
