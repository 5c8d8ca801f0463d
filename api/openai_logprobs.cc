#include "api/openai_logprobs.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/str_format.h"

namespace chorale {
namespace {

// What OpenAI writes for a probability of zero; JSON has no infinity.
constexpr double kLogprobMin = -9999.0;

double LogprobOf(const TokenText& token) {
  const double logprob = token.logprob;
  return std::isnan(logprob) ? kLogprobMin : std::max(logprob, kLogprobMin);
}

bool IsUtf8(const std::string& bytes) {
  try {
    Json(bytes).dump();
    return true;
  } catch (const Json::exception&) {
    return false;
  }
}

// A token's text; bytes that are no text by themselves are written as OpenAI does: bytes:\xe2\x98.
std::string TextOf(const TokenText& token) {
  if (IsUtf8(token.bytes)) return token.bytes;
  std::string text = "bytes:";
  for (unsigned char byte : token.bytes) text += absl::StrFormat("\\x%02x", byte);
  return text;
}

Json BytesOf(const TokenText& token) {
  Json bytes = Json::array();
  for (unsigned char byte : token.bytes) bytes.push_back(byte);
  return bytes;
}

Json ChatToken(const TokenText& token) {
  return {{"token", TextOf(token)}, {"logprob", LogprobOf(token)}, {"bytes", BytesOf(token)}};
}

// Of a character's bytes in UTF-8, one behind the first.
bool IsContinuation(unsigned char byte) { return (byte & 0xC0) == 0x80; }

int64_t CountCharacters(const TokenText& token) {
  return std::count_if(token.bytes.begin(), token.bytes.end(),
                       [](unsigned char byte) { return !IsContinuation(byte); });
}

}  // namespace

Json CompletionLogprobs(const ChosenTokens& tokens, int64_t characters_before) {
  Json out = {{"tokens", Json::array()},
              {"token_logprobs", Json::array()},
              {"top_logprobs", Json::array()},
              {"text_offset", Json::array()}};
  int64_t offset = characters_before;
  for (const ChosenToken& token : tokens) {
    out["tokens"].push_back(TextOf(token.chosen));
    out["token_logprobs"].push_back(LogprobOf(token.chosen));
    Json top = Json::object();
    for (const TokenText& other : token.top) top[TextOf(other)] = LogprobOf(other);
    top[TextOf(token.chosen)] = LogprobOf(token.chosen);
    out["top_logprobs"].push_back(std::move(top));
    // A token that goes on with a character stands where the character begins.
    const bool goes_on = !token.chosen.bytes.empty() && IsContinuation(token.chosen.bytes[0]);
    out["text_offset"].push_back(goes_on && offset > 0 ? offset - 1 : offset);
    offset += CountCharacters(token.chosen);
  }
  return out;
}

Json ChatLogprobs(const ChosenTokens& tokens) {
  Json content = Json::array();
  for (const ChosenToken& token : tokens) {
    Json out = ChatToken(token.chosen);
    out["top_logprobs"] = Json::array();
    bool holds_chosen = token.top.empty();
    for (const TokenText& other : token.top) {
      out["top_logprobs"].push_back(ChatToken(other));
      holds_chosen |= other.token == token.chosen.token;
    }
    if (!holds_chosen) out["top_logprobs"].push_back(ChatToken(token.chosen));
    content.push_back(std::move(out));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

int64_t CountCharacters(const ChosenTokens& tokens) {
  int64_t count = 0;
  for (const ChosenToken& token : tokens) count += CountCharacters(token.chosen);
  return count;
}

}  // namespace chorale
