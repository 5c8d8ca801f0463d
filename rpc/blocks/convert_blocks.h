// Blocks on the wire: keys, events, and the format that both sides must share.
#pragma once

#include <span>
#include <string>
#include <vector>

#include <google/protobuf/repeated_ptr_field.h>

#include "absl/status/statusor.h"
#include "cache/block_events.h"
#include "cache/block_holder.h"
#include "cache/block_key.h"
#include "chorale/v1/blocks.pb.h"
#include "chorale/v1/worker.pb.h"
#include "kernels/tensor.h"

namespace chorale {

// The format of blocks of `shape` as they lie in memory; without a writer.
v1::KvFormat FormatOf(const kernels::KvShape& shape);
// FailedPrecondition, with both sides' values of the first field that differs. A writer is compared
// when both sides name one.
absl::Status CheckFormat(const v1::KvFormat& ours, const v1::KvFormat& theirs);

// InvalidArgument when one has not 16 bytes, or there are more than `count_max`.
absl::StatusOr<std::vector<BlockKey>> KeysFromProto(
    const google::protobuf::RepeatedPtrField<std::string>& keys, size_t count_max = 1 << 20);
void KeysToProto(std::span<const BlockKey> keys, google::protobuf::RepeatedPtrField<std::string>& out);

std::vector<BlockHolder> HoldersFromProto(
    const google::protobuf::RepeatedPtrField<v1::BlockHolder>& holders);
void HoldersToProto(std::span<const BlockHolder> holders,
                    google::protobuf::RepeatedPtrField<v1::BlockHolder>& out);

v1::BlockEvents ToProto(const BlockEventBatch& batch);
// InvalidArgument for keys or a digest of another size.
absl::StatusOr<BlockEventBatch> FromProto(const v1::BlockEvents& proto);

}  // namespace chorale
