// The wire's messages to the engine's types and back.
#pragma once

#include <cstdint>

#include "base/generation_defaults.h"
#include "chorale/v1/common.pb.h"
#include "engine/request.h"

namespace chorale {

// Unset fields take the engine's defaults; an unset max_tokens becomes `max_tokens_default`. Ranges
// are checked by ValidateSampling, not here.
SamplingParams FromProto(const v1::Sampling& sampling, int max_tokens_default);

// What a model's files say; only fields that are set there.
v1::Sampling ToProto(const GenerationDefaults& defaults);
GenerationDefaults DefaultsFromProto(const v1::Sampling& sampling);

v1::Usage ToProto(const Usage& usage);
v1::FinishReason ToProto(FinishReason reason);
// `end` is when the request ended.
v1::Timing ToProto(const Timing& timing, absl::Time end);

}  // namespace chorale
