// How a generation is told of, between the parts of a process that pass it on.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "chorale/v1/common.pb.h"

namespace chorale {

// Chunks come in order, then DoneFn exactly once.
using ChunkFn = std::function<void(const v1::GenerateChunk&)>;
using DoneFn = std::function<void(absl::Status)>;

}  // namespace chorale
