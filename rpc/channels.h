// Channels to peers, opened once and shared.
//
// A channel to a worker that died fails its calls at once (no wait-for-ready), and keepalive pings
// notice a peer that vanished without a word. Thread safe.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include <grpcpp/channel.h>

#include "absl/container/flat_hash_map.h"

namespace chorale {

// A new channel to `address` (host:port or unix:path) with Chorale's message sizes and keepalive.
std::shared_ptr<grpc::Channel> OpenChannel(const std::string& address);

class Channels {
 public:
  // The `n`-th channel to `address`, opened on first use. Each is a connection of its own, for
  // calls that move bytes side by side.
  std::shared_ptr<grpc::Channel> Get(const std::string& address, int n = 0);

 private:
  std::mutex mutex_;
  absl::flat_hash_map<std::pair<std::string, int>, std::shared_ptr<grpc::Channel>>
      channels_;  // under mutex_
};

}  // namespace chorale
