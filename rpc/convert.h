// The wire's messages to the engine's types and back.
#pragma once

#include "absl/status/statusor.h"
#include "api/completion.h"
#include "base/generation_defaults.h"
#include "chorale/v1/common.pb.h"
#include "chorale/v1/inference.pb.h"
#include "chorale/v1/worker.pb.h"
#include "engine/request.h"

namespace chorale {

// What a client asks for over gRPC. InvalidArgument names the field at fault; ranges of sampling are
// checked by ValidateSampling, not here.
absl::StatusOr<CompletionRequest> FromProto(const v1::GenerateRequest& request);

CompletionChunk FromProto(v1::GenerateChunk chunk);
v1::GenerateChunk ToProto(CompletionChunk chunk);

// What a router asks of a decode worker: everything but who may have the prompt's K/V.
v1::DecodeRequest ToProto(const GenerateRequest& request);
GenerateRequest FromProto(const v1::DecodeRequest& request);

// What a model's files say; only fields that are set there.
v1::Sampling ToProto(const GenerationDefaults& defaults);
GenerationDefaults DefaultsFromProto(const v1::Sampling& sampling);


}  // namespace chorale
