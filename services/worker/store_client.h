// StoreClient: the nodes of the block store as one. Each key belongs to the `replicas` nodes that
// rendezvous hashing ranks highest for it (cache/rendezvous.h); a node that does not answer is a
// cache miss, and is left alone for a moment.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "cache/block_key.h"
#include "rpc/channels.h"

namespace chorale {

// Thread safe.
class StoreClient {
 public:
  StoreClient(std::vector<std::string> nodes, int replicas, Channels& channels);
  // Waits for the questions under way.
  ~StoreClient();

  // Keys of a chain at one node, by their places in what was asked for.
  struct Part {
    std::string address;
    std::vector<int> places;
  };
  struct Found {
    int blocks = 0;           // leading keys that the stores have
    std::vector<Part> parts;  // who has them
  };
  // Asks for the longest prefix of `keys` that is stored. `on_found` is called once, on a thread of
  // gRPC's or before Lookup returns; after `timeout` with what was learnt until then.
  void Lookup(std::vector<BlockKey> keys, absl::Duration timeout,
              std::function<void(Found)> on_found);

  // The nodes that are to keep a block, the first choice first, without those that are down. One
  // that was too slow for a Lookup is not asked for a moment, but may be sent to.
  std::vector<std::string> NodesOf(const BlockKey& key) const;
  void NoteFailure(const std::string& address);

  int nodes_down() const;  // or too slow

 private:
  struct Node {
    absl::Time down_until = absl::InfinitePast();
    absl::Time slow_until = absl::InfinitePast();
  };
  std::vector<std::string> Choose(const BlockKey& key, bool to_ask) const;
  void Avoid(const std::string& address, absl::Time Node::*until);

  const std::vector<std::string> nodes_;
  const int replicas_;
  Channels& channels_;
  mutable std::mutex mutex_;
  std::vector<Node> states_;  // of nodes_; under mutex_
  std::condition_variable answered_;
  int asking_ = 0;  // calls under way; under mutex_
};

}  // namespace chorale
