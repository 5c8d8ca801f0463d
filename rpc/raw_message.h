// Protobuf messages of calls whose other messages are raw bytes.
#pragma once

#include <string_view>

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "base/check.h"

namespace chorale {

inline grpc::ByteBuffer SerializeMessage(const google::protobuf::MessageLite& message) {
  grpc::Slice slice(message.ByteSizeLong());
  CHECK(message.SerializeToArray(const_cast<uint8_t*>(slice.begin()),
                                 static_cast<int>(slice.size())));
  return grpc::ByteBuffer(&slice, 1);
}

// InvalidArgument for bytes that are no `Message`.
template <typename Message>
absl::StatusOr<Message> ParseMessage(grpc::ByteBuffer bytes) {
  Message message;
  if (bytes.Length() == 0) return message;
  grpc::ProtoBufferReader reader(&bytes);
  if (!reader.status().ok() || !message.ParseFromZeroCopyStream(&reader)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d bytes are no valid %s", bytes.Length(), message.GetTypeName()));
  }
  return message;
}

}  // namespace chorale
