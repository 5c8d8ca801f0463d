#include "text/utf8.h"

#include <cstdint>

namespace chorale {
namespace {

// The lead byte's length, and the range that its second byte must lie in.
struct Lead {
  int bytes = 0;  // 0: no lead byte
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
};

Lead LeadOf(uint8_t byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {.bytes = 2};
  if (byte == 0xE0) return {.bytes = 3, .low = 0xA0};
  if (byte == 0xED) return {.bytes = 3, .high = 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {.bytes = 3};
  if (byte == 0xF0) return {.bytes = 4, .low = 0x90};
  if (byte >= 0xF1 && byte <= 0xF3) return {.bytes = 4};
  if (byte == 0xF4) return {.bytes = 4, .high = 0x8F};
  return {};
}

}  // namespace

CodePoint CodePointAt(std::string_view text, size_t position) {
  const auto at = [&](size_t i) { return static_cast<uint8_t>(text[position + i]); };
  const size_t left = text.size() - position;
  if (at(0) < 0x80) return {.value = at(0), .bytes = 1, .valid = true};
  const Lead lead = LeadOf(at(0));
  if (lead.bytes == 0) return {};
  char32_t value = at(0) & (0x7F >> lead.bytes);
  for (int i = 1; i < lead.bytes; ++i) {
    if (static_cast<size_t>(i) == left) return {.bytes = i, .open = true};
    const uint8_t low = i == 1 ? lead.low : 0x80;
    const uint8_t high = i == 1 ? lead.high : 0xBF;
    if (at(i) < low || at(i) > high) return {.bytes = i};
    value = value << 6 | (at(i) & 0x3F);
  }
  return {.value = value, .bytes = lead.bytes, .valid = true};
}

void AppendUtf8(char32_t value, std::string& text) {
  const auto tail = [&](int shift) { text += static_cast<char>(0x80 | (value >> shift & 0x3F)); };
  if (value < 0x80) {
    text += static_cast<char>(value);
  } else if (value < 0x800) {
    text += static_cast<char>(0xC0 | value >> 6);
    tail(0);
  } else if (value < 0x10000) {
    text += static_cast<char>(0xE0 | value >> 12);
    tail(6);
    tail(0);
  } else {
    text += static_cast<char>(0xF0 | value >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

std::optional<size_t> FindInvalidUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const CodePoint c = CodePointAt(text, i);
    if (!c.valid) return i;
    i += c.bytes;
  }
  return std::nullopt;
}

std::string TakeUtf8(std::string& bytes) {
  std::string text;
  size_t i = 0;
  while (i < bytes.size()) {
    const CodePoint c = CodePointAt(bytes, i);
    if (c.open) break;
    if (c.valid) {
      text.append(bytes, i, c.bytes);
    } else {
      AppendUtf8(kReplacement, text);
    }
    i += c.bytes;
  }
  bytes.erase(0, i);
  return text;
}

std::string ToValidUtf8(std::string bytes) {
  std::string text = TakeUtf8(bytes);
  if (!bytes.empty()) AppendUtf8(kReplacement, text);
  return text;
}

}  // namespace chorale
