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
  // Refuses new calls, waits for running ones until `deadline`, then cancels them.
  void Drain(absl::Time deadline);

 private:
  RpcServer() = default;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace chorale
