#include "services/router/openai_logprobs.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/str_format.h"

namespace chorale {
namespace {

// What OpenAI writes for a probability of zero; JSON has no infinity.
constexpr double kLogprobMin = -9999.0;

double LogprobOf(const v1::TokenLogprob& token) {
  const double logprob = token.logprob();
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
std::string TextOf(const v1::TokenLogprob& token) {
  if (IsUtf8(token.text())) return token.text();
  std::string text = "bytes:";
  for (unsigned char byte : token.text()) text += absl::StrFormat("\\x%02x", byte);
  return text;
}

Json BytesOf(const v1::TokenLogprob& token) {
  Json bytes = Json::array();
  for (unsigned char byte : token.text()) bytes.push_back(byte);
  return bytes;
}

Json ChatToken(const v1::TokenLogprob& token) {
  return {{"token", TextOf(token)}, {"logprob", LogprobOf(token)}, {"bytes", BytesOf(token)}};
}

int64_t CountCharacters(const v1::TokenLogprob& token) {
  return std::count_if(token.text().begin(), token.text().end(),
                       [](unsigned char byte) { return (byte & 0xC0) != 0x80; });
}

}  // namespace

Json CompletionLogprobs(const ChosenTokens& tokens, int64_t characters_before) {
  Json out = {{"tokens", Json::array()},
              {"token_logprobs", Json::array()},
              {"top_logprobs", Json::array()},
              {"text_offset", Json::array()}};
  int64_t offset = characters_before;
  for (const v1::ChosenToken& token : tokens) {
    out["tokens"].push_back(TextOf(token.chosen()));
    out["token_logprobs"].push_back(LogprobOf(token.chosen()));
    Json top = Json::object();
    for (const v1::TokenLogprob& other : token.top()) top[TextOf(other)] = LogprobOf(other);
    out["top_logprobs"].push_back(std::move(top));
    out["text_offset"].push_back(offset);
    offset += CountCharacters(token.chosen());
  }
  return out;
}

Json ChatLogprobs(const ChosenTokens& tokens) {
  Json content = Json::array();
  for (const v1::ChosenToken& token : tokens) {
    Json out = ChatToken(token.chosen());
    out["top_logprobs"] = Json::array();
    for (const v1::TokenLogprob& other : token.top()) {
      out["top_logprobs"].push_back(ChatToken(other));
    }
    content.push_back(std::move(out));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

int64_t CountCharacters(const ChosenTokens& tokens) {
  int64_t count = 0;
  for (const v1::ChosenToken& token : tokens) count += CountCharacters(token.chosen());
  return count;
}

}  // namespace chorale
