// A gRPC server with what every Chorale process offers: health, reflection, keepalive that
// tolerates long streams, message limits, and a drain that lets running calls end.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <grpcpp/server.h>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace chorale {

class RpcServer {
 public:
  // Listens on `address` (host:port, port 0 picks one; or unix:path) and serves `services`, which
  // must outlive the server. Health starts as NOT_SERVING. InvalidArgument: cannot listen there.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(
      const std::string& address, const std::vector<grpc::Service*>& services);
  ~RpcServer();

  // The address to connect to, with the port that was picked.
  const std::string& address() const { return address_; }
  // What grpc.health.v1 answers from now on.
  void SetServing(bool serving);
  // Waits until the calls that run now have ended, then tells clients to go away; what still runs
  // at `deadline` is cancelled. In this order because a client that is told to go away first may
  // lose the end of its stream: the connection closes with the last call, read or not. Calls that
  // begin meanwhile are still taken, and end by `deadline`.
  void Drain(absl::Time deadline);

 private:
  class CallCount;

  RpcServer() = default;
  CallCount* calls_ = nullptr;  // owned by server_
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace chorale
