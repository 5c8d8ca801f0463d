#include "engine/text_stream.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace chorale {

namespace {

bool HasText(const Tokenizer& tokenizer, std::span<const TokenId> ids) {
  return std::any_of(ids.begin(), ids.end(), [&](TokenId id) {
    return !tokenizer.IsSpecial(id) && !tokenizer.BytesOf(id).empty();
  });
}

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer, const std::vector<std::string>& stops,
                       std::span<const TokenId> prompt)
    : stops_(stops),
      detokenizer_(tokenizer, /*skip_special_tokens=*/true, HasText(tokenizer, prompt)) {}

std::string TextStream::Add(TokenId token) { return Release(detokenizer_.Add(token)); }

std::string TextStream::Finish() {
  std::string text = Release(detokenizer_.Flush());
  return stopped_ ? text : text + std::exchange(held_, std::string());
}

std::string TextStream::Release(std::string text) {
  if (stopped_) return "";
  held_ += text;
  size_t match = std::string::npos;
  for (const std::string& stop : stops_) match = std::min(match, held_.find(stop));
  if (match != std::string::npos) {
    stopped_ = true;
    held_.resize(match);
    return std::exchange(held_, std::string());
  }
  size_t keep = 0;  // the longest end of the text that begins a stop string
  for (const std::string& stop : stops_) {
    for (size_t size = std::min(stop.size() - 1, held_.size()); size > keep; --size) {
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, size))) keep = size;
    }
  }
  std::string certain = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return certain;
}

}  // namespace chorale
