// The sending process of bench/transfer: a pool of blocks in shared memory, served over TCP, over a
// unix socket and as a region.
#pragma once

#include <cstdint>
#include <string>

#include "cache/block_key.h"

namespace chorale::bench {

struct TransferSize {
  int64_t bytes = 1 << 30;
  int64_t block_bytes = 256 << 10;
  int blocks() const { return static_cast<int>(bytes / block_bytes); }
};

// The name of block `index`.
BlockKey TransferKey(int index);

// Where the sender serves, a line each when it is ready.
enum TransferAddress { kTcp, kUnix, kRegion, kBareTcp, kBareUnix, kTransferAddresses };

// Serves until `input` ends, with its unix sockets in `folder`. Writes its addresses to `output`.
// Returns the exit code.
int RunTransferSender(const TransferSize& size, const std::string& folder, int input, int output);

}  // namespace chorale::bench
