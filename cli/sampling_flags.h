// The flags by which `generate` and `chat` say how tokens are chosen.
#pragma once

#include <CLI/CLI.hpp>

#include "chorale/v1/common.pb.h"

namespace chorale::cli {

// A flag that is not given leaves its field unset, so that the model's default holds. `sampling`
// must outlive the parsing.
void AddSamplingFlags(CLI::App& app, v1::Sampling& sampling);

}  // namespace chorale::cli
