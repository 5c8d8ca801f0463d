#include "rpc/convert.h"

#include <algorithm>

namespace chorale {

SamplingParams FromProto(const v1::Sampling& sampling, int max_tokens_default) {
  SamplingParams params;
  if (sampling.has_temperature()) params.temperature = sampling.temperature();
  if (sampling.has_top_k()) params.top_k = sampling.top_k();
  if (sampling.has_top_p()) params.top_p = sampling.top_p();
  if (sampling.has_min_p()) params.min_p = sampling.min_p();
  if (sampling.has_presence_penalty()) params.presence_penalty = sampling.presence_penalty();
  if (sampling.has_frequency_penalty()) params.frequency_penalty = sampling.frequency_penalty();
  if (sampling.has_repetition_penalty()) params.repetition_penalty = sampling.repetition_penalty();
  params.seed = sampling.seed();
  params.logit_bias.assign(sampling.logit_bias().begin(), sampling.logit_bias().end());
  std::sort(params.logit_bias.begin(), params.logit_bias.end());  // maps have no order of their own
  params.max_tokens = sampling.has_max_tokens() ? sampling.max_tokens() : max_tokens_default;
  params.ignore_eos = sampling.ignore_eos();
  params.stop_tokens.assign(sampling.stop_token_ids().begin(), sampling.stop_token_ids().end());
  params.stop.assign(sampling.stop().begin(), sampling.stop().end());
  if (sampling.has_logprobs()) params.logprobs = sampling.logprobs();
  return params;
}

v1::Sampling ToProto(const GenerationDefaults& defaults) {
  v1::Sampling proto;
  if (defaults.temperature) proto.set_temperature(*defaults.temperature);
  if (defaults.top_k) proto.set_top_k(*defaults.top_k);
  if (defaults.top_p) proto.set_top_p(*defaults.top_p);
  if (defaults.min_p) proto.set_min_p(*defaults.min_p);
  if (defaults.repetition_penalty) proto.set_repetition_penalty(*defaults.repetition_penalty);
  if (defaults.max_tokens) proto.set_max_tokens(*defaults.max_tokens);
  for (const std::string& stop : defaults.stop) proto.add_stop(stop);
  return proto;
}

GenerationDefaults DefaultsFromProto(const v1::Sampling& sampling) {
  GenerationDefaults defaults;
  if (sampling.has_temperature()) defaults.temperature = sampling.temperature();
  if (sampling.has_top_k()) defaults.top_k = sampling.top_k();
  if (sampling.has_top_p()) defaults.top_p = sampling.top_p();
  if (sampling.has_min_p()) defaults.min_p = sampling.min_p();
  if (sampling.has_repetition_penalty())
    defaults.repetition_penalty = sampling.repetition_penalty();
  if (sampling.has_max_tokens()) defaults.max_tokens = sampling.max_tokens();
  defaults.stop.assign(sampling.stop().begin(), sampling.stop().end());
  return defaults;
}

v1::Usage ToProto(const Usage& usage) {
  v1::Usage proto;
  proto.set_prompt_tokens(usage.prompt_tokens);
  proto.set_cached_tokens(usage.cached_tokens);
  proto.set_transferred_tokens(usage.transferred_tokens);
  proto.set_completion_tokens(usage.completion_tokens);
  return proto;
}

v1::Timing ToProto(const Timing& timing, absl::Time end) {
  v1::Timing proto;
  if (!timing.first_step) return proto;
  const auto since = [&](absl::Time begin, const std::optional<absl::Time>& t) {
    return t ? absl::ToInt64Microseconds(*t - begin) : 0;
  };
  proto.set_queue_us(since(*timing.first_step, timing.admitted));
  if (timing.admitted) proto.set_prefill_us(since(*timing.admitted, timing.prompt_ready));
  proto.set_first_token_us(since(*timing.first_step, timing.first_token));
  proto.set_total_us(absl::ToInt64Microseconds(end - *timing.first_step));
  return proto;
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
    case FinishReason::kError:
      break;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

}  // namespace chorale
