// One generation on one worker: from the wire's DecodeRequest to engine events and back to chunks.
// chorale-decode and the single process run the same code.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "services/common/call.h"
#include "services/worker/block_fetch.h"
#include "services/worker/worker.h"

namespace chorale {

// Starts a generation and returns a function that cancels it, safe from any thread at any time.
// Chunks come in order on the engine's thread, then `on_done` exactly once. `worker` must outlive
// the call, and so must `fetcher`, which may be null: then every prompt is computed here.
std::function<void()> StartGenerate(Worker& worker, BlockFetcher* fetcher,
                                    v1::DecodeRequest request, absl::Time deadline,
                                    ChunkFn on_chunk, DoneFn on_done);

}  // namespace chorale
