#include "net/redis/slots.h"

#include <array>
#include <charconv>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace chorale {
namespace {

constexpr size_t kRangesMax = kRedisSlots;

// CRC-16/XMODEM: polynomial 0x1021, from 0, not reflected.
constexpr std::array<uint16_t, 256> MakeCrcTable() {
  std::array<uint16_t, 256> table{};
  for (int byte = 0; byte < 256; ++byte) {
    uint32_t crc = static_cast<uint32_t>(byte) << 8;
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 0x8000) ? (crc << 1) ^ 0x1021 : crc << 1;
    table[static_cast<size_t>(byte)] = static_cast<uint16_t>(crc);
  }
  return table;
}
constexpr std::array<uint16_t, 256> kCrcTable = MakeCrcTable();

bool IsHost(std::string_view host) { return !host.empty() && host != "?"; }

absl::Status BadSlots(std::string_view what) {
  return absl::DataLossError(absl::StrCat("reply to CLUSTER SLOTS: ", std::string(what)));
}

}  // namespace

int RedisSlotOf(std::string_view key) {
  if (const size_t open = key.find('{'); open != key.npos) {
    const size_t close = key.find('}', open + 1);
    if (close != key.npos && close > open + 1) key = key.substr(open + 1, close - open - 1);
  }
  uint16_t crc = 0;
  for (const char c : key) {
    const size_t index = static_cast<size_t>((crc >> 8) ^ static_cast<uint8_t>(c)) & 0xff;
    crc = static_cast<uint16_t>((crc << 8) ^ kCrcTable[index]);
  }
  return crc % kRedisSlots;
}

absl::StatusOr<std::vector<RedisSlotRange>> ParseClusterSlots(const RedisReply& reply,
                                                              const RedisAddress& asked) {
  if (reply.kind != RedisReply::Kind::kArray) return BadSlots("not an array");
  if (reply.elements.size() > kRangesMax) return BadSlots("too many ranges");
  std::vector<RedisSlotRange> ranges;
  for (const RedisReply& row : reply.elements) {
    if (row.elements.size() < 3 || row.elements[2].elements.size() < 2) {
      return BadSlots("a range without a master");
    }
    const RedisReply& first = row.elements[0];
    const RedisReply& last = row.elements[1];
    const RedisReply& host = row.elements[2].elements[0];
    const RedisReply& port = row.elements[2].elements[1];
    const auto in = [](const RedisReply& number, int64_t low, int64_t high) {
      return number.kind == RedisReply::Kind::kInteger && number.integer >= low &&
             number.integer <= high;
    };
    if (!in(first, 0, kRedisSlots - 1) || !in(last, first.integer, kRedisSlots - 1) ||
        !in(port, 1, 65535)) {
      return BadSlots("a number out of range");
    }
    if (host.text.size() > 253) return BadSlots("a host name of over 253 bytes");
    RedisSlotRange range{.first = static_cast<int>(first.integer),
                         .last = static_cast<int>(last.integer)};
    range.master.host = IsHost(host.text) ? host.text : asked.host;
    range.master.port = static_cast<int>(port.integer);
    ranges.push_back(std::move(range));
  }
  return ranges;
}

std::optional<RedisRedirect> ParseRedisRedirect(std::string_view message,
                                                const RedisAddress& said_by) {
  RedisRedirect redirect;
  if (message.starts_with("ASK ")) {
    redirect.ask = true;
    message.remove_prefix(4);
  } else if (message.starts_with("MOVED ")) {
    message.remove_prefix(6);
  } else {
    return {};
  }
  const char* end = message.data() + message.size();
  const auto slot = std::from_chars(message.data(), end, redirect.slot);
  if (slot.ec != std::errc() || slot.ptr == end || *slot.ptr != ' ') return {};
  if (redirect.slot < 0 || redirect.slot >= kRedisSlots) return {};
  const std::string_view to(slot.ptr + 1, static_cast<size_t>(end - slot.ptr - 1));
  // Redis writes IPv6 addresses without brackets, so the port is after the last colon.
  const size_t colon = to.rfind(':');
  if (colon == to.npos) return {};
  const std::string_view host = to.substr(0, colon);
  const auto port = std::from_chars(to.data() + colon + 1, end, redirect.to.port);
  if (port.ec != std::errc() || port.ptr != end) return {};
  if (redirect.to.port < 1 || redirect.to.port > 65535 || host.size() > 253) return {};
  redirect.to.host = IsHost(host) ? std::string(host) : said_by.host;
  return redirect;
}

}  // namespace chorale
