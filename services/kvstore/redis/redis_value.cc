#include "services/kvstore/redis/redis_value.h"

#include <bit>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/hash.h"

namespace chorale {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr uint32_t kMagic = 0x564b4843;  // "CHKV"
constexpr uint32_t kVersion = 1;

struct Head {
  uint32_t magic;
  uint32_t version;
  uint64_t format;
  int32_t index;
  uint32_t zero;
  uint64_t bytes;
  uint64_t checksum;
  std::array<uint8_t, 16> key;
  uint64_t head_checksum;
};
static_assert(sizeof(Head) == kRedisBlockHeadBytes);

uint64_t ChecksumOf(const Head& head) {
  return Checksum64(std::as_bytes(std::span(&head, 1)).first(offsetof(Head, head_checksum)));
}

absl::Status Bad(std::string_view what) {
  return absl::DataLossError(absl::StrCat("block in Redis: ", std::string(what)));
}

}  // namespace

std::string RedisKeyOfBlock(const BlockKey& key) {
  return absl::StrCat("chorale:kv:", key.ToHex());
}

std::string EncodeRedisBlock(const BlockKey& key, const RedisBlockHead& block,
                             std::span<const std::byte> bytes) {
  Head head{.magic = kMagic,
            .version = kVersion,
            .format = block.format,
            .index = block.index,
            .bytes = bytes.size(),
            .checksum = block.checksum,
            .key = key.bytes};
  head.head_checksum = ChecksumOf(head);
  std::string value;
  value.reserve(sizeof(head) + bytes.size());
  value.append(reinterpret_cast<const char*>(&head), sizeof(head));
  value.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  return value;
}

absl::StatusOr<RedisBlockHead> DecodeRedisBlock(const BlockKey& key, std::string_view value) {
  Head head;
  if (value.size() < sizeof(head)) return Bad("shorter than its head");
  std::memcpy(&head, value.data(), sizeof(head));
  if (head.magic != kMagic || head.version != kVersion) return Bad("another kind of value");
  if (head.head_checksum != ChecksumOf(head)) return Bad("the head does not match its checksum");
  if (head.key != key.bytes) return Bad("it is another block");
  if (head.bytes != value.size() - sizeof(head)) return Bad("of another length than it says");
  if (head.checksum != Checksum64(std::as_bytes(std::span(value)).subspan(sizeof(head)))) {
    return Bad("the bytes do not match their checksum");
  }
  return RedisBlockHead{.format = head.format, .index = head.index, .checksum = head.checksum};
}

}  // namespace chorale
