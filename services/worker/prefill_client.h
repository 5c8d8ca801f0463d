// Fetches K/V blocks from a prefill worker: Prefill.Run over raw frames, into the engine.
#pragma once

#include "rpc/channels.h"
#include "services/worker/generate_call.h"

namespace chorale {

// A FetchFn over gRPC. `channels` must outlive every fetch.
FetchFn MakePrefillClient(Channels& channels);

}  // namespace chorale
