// The processes of a cluster that hold K/V blocks, and what they say of them (chorale.v1.Blocks).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "chorale/v1/blocks.pb.h"

namespace chorale::cli {

// Calls but Verify give up on a process after this long.
inline constexpr absl::Duration kBlocksTimeout = absl::Seconds(5);

struct BlockServer {
  std::string name;  // in the cluster; an address when that is all that is known
  std::string address;
  bool running = true;  // false: its record says that it has ended, or does not listen yet
};

// Workers and stores of the cluster in the run folder `run_dir`, as the flag gives it; or those at
// `addresses`, when there are any. NotFound says how to start a cluster.
absl::StatusOr<std::vector<BlockServer>> FindBlockServers(
    const std::string& run_dir, const std::vector<std::string>& addresses);

// Unavailable when the process is not running or does not answer.
absl::StatusOr<v1::StatBlocksReply> StatBlocks(const BlockServer& server);
absl::StatusOr<std::vector<v1::BlockInfo>> ListBlocks(const BlockServer& server,
                                                      const v1::ListBlocksRequest& request);
absl::StatusOr<v1::EvictBlocksReply> EvictBlocks(const BlockServer& server,
                                                 const v1::EvictBlocksRequest& request);
// Takes as long as reading all blocks does. Cancelled when interrupted, for which the caller has
// blocked interrupts.
absl::StatusOr<v1::VerifyProgress> VerifyBlocks(
    const BlockServer& server, const v1::VerifyBlocksRequest& request, absl::Duration time_max,
    const std::function<void(const v1::VerifyProgress&)>& on_progress);

// Cells of a table: the tier, its blocks, their size and what that may be; "-" where nobody knows.
std::vector<std::string> TierCells(const v1::TierStat& tier);

// The first characters of keys in hex, in lower case. InvalidArgument: it cannot be that.
absl::StatusOr<std::string> ParseKeyPrefix(const std::string& text);

}  // namespace chorale::cli
