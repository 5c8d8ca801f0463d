// Rendezvous hashing: which of several nodes keep a block, agreed on without talking.
//
// Every node gets a weight from the key and its own id, and the N heaviest keep the block: highest
// random weight (Thaler & Ravishankar 1998). N may differ from key to key. When a node goes, only
// the blocks that it kept move, each to the next in its order, evenly over those that are left.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "cache/block_key.h"

namespace chorale {

// Indexes into `node_ids`, the heaviest first, at most `count` of them. The order of the nodes does
// not depend on that of `node_ids`, nor on machine or version: it may be relied on after restarts.
std::vector<int> RankNodes(const BlockKey& key, std::span<const std::string> node_ids, int count);
// All of them.
std::vector<int> RankNodes(const BlockKey& key, std::span<const std::string> node_ids);

}  // namespace chorale
