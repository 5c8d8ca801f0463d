// One generation on one worker: from a request to engine events and back to chunks.
// chorale-decode and the single process run the same code.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "api/completion.h"
#include "services/worker/block_fetch.h"
#include "services/worker/worker.h"

namespace chorale {

// Starts a generation and returns a function that cancels it, safe from any thread at any time.
// Chunks come in order on the engine's thread, then `on_done` exactly once. `worker` must outlive
// the call, and so must `fetcher`, which may be null: then every prompt is computed here. `sources`
// may have the prompt's K/V.
std::function<void()> StartGenerate(Worker& worker, BlockFetcher* fetcher, GenerateRequest request,
                                    FetchSources sources, ChunkFn on_chunk, DoneFn on_done);

}  // namespace chorale
