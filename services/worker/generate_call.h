// One generation on one worker: from the wire's DecodeRequest to engine events and back to chunks.
// chorale-decode and the single process run the same code.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "services/common/call.h"
#include "services/worker/worker.h"

namespace chorale {

// K/V blocks of a prompt wanted from a prefill worker, for request `id` of this worker's engine.
struct PrefillFetch {
  std::string address;
  v1::PrefillRequest request;
  RequestId id = 0;
  int blocks = 0;  // how many are wanted
  absl::Time deadline;
};

// Starts a fetch that delivers to `host` and ends with EndDelivery; returns what cancels it.
using FetchFn =
    std::function<std::function<void()>(PrefillFetch fetch, std::shared_ptr<EngineHost> host)>;

struct GenerateCallOptions {
  FetchFn fetch;                  // empty: every prompt is prefilled here
  int local_prefill_tokens = 32;  // an uncached tail up to this long is prefilled here
};

// Starts a generation and returns a function that cancels it, safe from any thread at any time.
// Chunks come in order on the engine's thread, then `on_done` exactly once. `worker` must outlive
// the call; `options` is copied.
std::function<void()> StartGenerate(Worker& worker, const GenerateCallOptions& options,
                                    v1::DecodeRequest request, absl::Time deadline,
                                    ChunkFn on_chunk, DoneFn on_done);

}  // namespace chorale
