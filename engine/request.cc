#include "engine/request.h"

#include <cmath>
#include <cstdint>

#include "absl/strings/str_format.h"
#include "base/generation_defaults.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

constexpr size_t kStopTokensMax = 256;
constexpr size_t kBiasesMax = 1024;

absl::Status Within(const char* field, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("field '%s': %g is not within [%g, %g]", field, value, low, high));
}

absl::Status PositiveUpTo(const char* field, double value, double high) {
  if (value > 0 && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("field '%s': %g is not within (0, %g]", field, value, high));
}

absl::Status ValidateToken(const char* field, TokenId token, int vocab) {
  if (token >= 0 && token < vocab) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "field '%s': token %d is not within the vocabulary [0, %d]", field, token, vocab - 1));
}

absl::Status ValidateStops(const SamplingParams& params, int vocab) {
  if (params.stop_tokens.size() > kStopTokensMax) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'stop_token_ids': %d tokens are more than %d",
                        params.stop_tokens.size(), kStopTokensMax));
  }
  for (TokenId token : params.stop_tokens) {
    RETURN_IF_ERROR(ValidateToken("stop_token_ids", token, vocab));
  }
  if (params.stop.size() > kStopStringsMax) {
    return absl::InvalidArgumentError(absl::StrFormat("field 'stop': %d strings are more than %d",
                                                      params.stop.size(), kStopStringsMax));
  }
  for (const std::string& stop : params.stop) {
    if (stop.empty() || stop.size() > kStopBytesMax) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'stop': a string of %d bytes is not within [1, %d]", stop.size(), kStopBytesMax));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateSampling(const SamplingParams& params, int vocab) {
  RETURN_IF_ERROR(Within("temperature", params.temperature, 0, 100));
  RETURN_IF_ERROR(Within("top_k", params.top_k, 0, INT32_MAX));
  RETURN_IF_ERROR(PositiveUpTo("top_p", params.top_p, 1));
  RETURN_IF_ERROR(Within("min_p", params.min_p, 0, 1));
  RETURN_IF_ERROR(Within("presence_penalty", params.presence_penalty, -2, 2));
  RETURN_IF_ERROR(Within("frequency_penalty", params.frequency_penalty, -2, 2));
  RETURN_IF_ERROR(PositiveUpTo("repetition_penalty", params.repetition_penalty, 100));
  RETURN_IF_ERROR(Within("max_tokens", params.max_tokens, 0, INT32_MAX));
  if (params.logprobs) RETURN_IF_ERROR(Within("logprobs", *params.logprobs, 0, kLogprobsMax));
  if (params.logit_bias.size() > kBiasesMax) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'logit_bias': %d entries are more than %d", params.logit_bias.size(), kBiasesMax));
  }
  for (const auto& [token, bias] : params.logit_bias) {
    RETURN_IF_ERROR(ValidateToken("logit_bias", token, vocab));
    RETURN_IF_ERROR(Within("logit_bias", bias, -100, 100));
  }
  return ValidateStops(params, vocab);
}

const char* NameOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  __builtin_unreachable();
}

}  // namespace chorale
