#include "rpc/blocks/convert_blocks.h"

#include "absl/strings/str_format.h"
#include "base/hash.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

std::string Readable(int value) { return absl::StrFormat("%d", value); }
std::string Readable(const std::string& value) { return absl::StrFormat("'%s'", value); }

template <typename Value>
absl::Status CheckField(const char* field, const Value& ours, const Value& theirs) {
  if (ours == theirs) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrFormat("K/V blocks of another format: %s is %s here, %s there", field,
                      Readable(ours), Readable(theirs)));
}

std::string ShortWriter(const std::string& writer) {
  const absl::StatusOr<Digest> digest = Digest::FromBytes(writer);
  return digest.ok() ? digest->Short() : "no digest";
}

}  // namespace

v1::KvFormat FormatOf(const kernels::KvShape& shape) {
  v1::KvFormat format;
  format.set_layout(kernels::kKvLayoutVersion);
  format.set_block_tokens(kernels::kBlockTokens);
  format.set_layers(shape.layers);
  format.set_kv_heads(shape.kv_heads);
  format.set_head_dim(shape.head_dim);
  format.set_dtype(kernels::NameOf(shape.dtype));
  return format;
}

absl::Status CheckFormat(const v1::KvFormat& ours, const v1::KvFormat& theirs) {
  RETURN_IF_ERROR(CheckField("layout", ours.layout(), theirs.layout()));
  RETURN_IF_ERROR(CheckField("block_tokens", ours.block_tokens(), theirs.block_tokens()));
  RETURN_IF_ERROR(CheckField("layers", ours.layers(), theirs.layers()));
  RETURN_IF_ERROR(CheckField("kv_heads", ours.kv_heads(), theirs.kv_heads()));
  RETURN_IF_ERROR(CheckField("head_dim", ours.head_dim(), theirs.head_dim()));
  RETURN_IF_ERROR(CheckField("dtype", ours.dtype(), theirs.dtype()));
  RETURN_IF_ERROR(CheckField("encoding", ours.encoding(), theirs.encoding()));
  if (ours.writer().empty() || theirs.writer().empty()) return absl::OkStatus();
  if (ours.writer() == theirs.writer()) return absl::OkStatus();
  return CheckField("writer", ShortWriter(ours.writer()), ShortWriter(theirs.writer()));
}

absl::StatusOr<std::vector<BlockKey>> KeysFromProto(
    const google::protobuf::RepeatedPtrField<std::string>& keys, size_t count_max) {
  if (static_cast<size_t>(keys.size()) > count_max) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'keys': %d of them, send at most %d", keys.size(), count_max));
  }
  std::vector<BlockKey> parsed;
  parsed.reserve(keys.size());
  for (const std::string& bytes : keys) {
    ASSIGN_OR_RETURN(BlockKey key, BlockKey::FromBytes(bytes));
    parsed.push_back(key);
  }
  return parsed;
}

void KeysToProto(std::span<const BlockKey> keys,
                 google::protobuf::RepeatedPtrField<std::string>& out) {
  for (const BlockKey& key : keys) *out.Add() = std::string(key.AsBytes());
}

std::vector<BlockHolder> HoldersFromProto(
    const google::protobuf::RepeatedPtrField<v1::BlockHolder>& holders) {
  std::vector<BlockHolder> out;
  for (const v1::BlockHolder& holder : holders) out.push_back({holder.address(), holder.blocks()});
  return out;
}

void HoldersToProto(std::span<const BlockHolder> holders,
                    google::protobuf::RepeatedPtrField<v1::BlockHolder>& out) {
  for (const BlockHolder& holder : holders) {
    v1::BlockHolder& proto = *out.Add();
    proto.set_address(holder.address);
    proto.set_blocks(holder.blocks);
  }
}

v1::BlockEvents ToProto(const BlockEventBatch& batch) {
  v1::BlockEvents proto;
  proto.set_first_sequence(batch.first_sequence);
  proto.set_last_sequence(batch.last_sequence);
  proto.set_snapshot(batch.snapshot);
  proto.set_snapshot_done(batch.snapshot_done);
  for (const BlockEvent& event : batch.events) {
    v1::BlockEvent* out = proto.add_events();
    out->set_key(std::string(event.key.AsBytes()));
    out->set_removed(event.removed);
  }
  if (batch.digest) proto.set_digest(batch.digest->ToBytes());
  return proto;
}

absl::StatusOr<BlockEventBatch> FromProto(const v1::BlockEvents& proto) {
  BlockEventBatch batch{.first_sequence = proto.first_sequence(),
                        .last_sequence = proto.last_sequence(),
                        .snapshot = proto.snapshot(),
                        .snapshot_done = proto.snapshot_done()};
  for (const v1::BlockEvent& event : proto.events()) {
    ASSIGN_OR_RETURN(BlockKey key, BlockKey::FromBytes(event.key()));
    batch.events.push_back({.key = key, .removed = event.removed()});
  }
  if (!proto.digest().empty()) {
    ASSIGN_OR_RETURN(batch.digest, KeySum::FromBytes(proto.digest()));
  }
  return batch;
}

}  // namespace chorale
