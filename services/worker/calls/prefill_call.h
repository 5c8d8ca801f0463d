// One Prefill.Run from the sending side: blocks of a prompt, as they are written, into a stream.
#pragma once

#include <memory>

#include "absl/time/time.h"
#include "services/worker/block_fetch.h"
#include "services/worker/calls/block_sender.h"
#include "services/worker/worker.h"

namespace chorale {

// Serves one call; its first message says which prompt. What is here or at others is not computed.
// When the caller goes away the work stops and its blocks are freed. A caller whose weights or
// layout differ gets FailedPrecondition with both sides' values.
void StartPrefillCall(Worker& worker, BlockFetcher& fetcher, absl::Time deadline,
                      std::shared_ptr<BlockStream> stream);

}  // namespace chorale
