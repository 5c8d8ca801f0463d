// One Blocks.Pull from the sending side: blocks of a chain that are here already.
#pragma once

#include <memory>
#include <string>

#include "absl/time/time.h"
#include "services/worker/calls/block_sender.h"
#include "services/worker/worker.h"

namespace chorale {

// Serves one call; its first message says what is wanted. What is lent for it is let go when it
// ends, whoever ends it.
void StartPullCall(Worker& worker, std::shared_ptr<BlockStream> stream);

}  // namespace chorale
