// The rotary embeddings that a config.json asks for.
#pragma once

#include "absl/status/status.h"
#include "base/json.h"
#include "model/checkpoint/config.h"

namespace chorale {

// Reads rope_theta and rope_scaling, or rope_parameters, which holds both. Where the scaling makes
// the context longer, so does this: needs config.positions_max and config.head_dim. Errors as of
// ParseModelConfig.
absl::Status ParseRope(const Json& json, ModelConfig& config);

}  // namespace chorale
