// FrontDoor: the servers by which users come in, gRPC and HTTP, over one backend.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "rpc/server.h"
#include "services/gateway/gateway.h"
#include "services/gateway/inference_service.h"
#include "services/http/http_server.h"

namespace chorale {

struct FrontDoorOptions {
  std::string grpc;                  // host:port or unix:/path
  std::string http = "127.0.0.1:0";  // host:port
  double request_seconds_max = 600;  // no generation runs longer
  std::string generation_config = "model";
};

// --http and the limits of requests.
void AddFrontDoorFlags(CLI::App& app, FrontDoorOptions& options);

class FrontDoor {
 public:
  // Listens on both addresses. `backend` must outlive the front door.
  static absl::StatusOr<std::unique_ptr<FrontDoor>> Open(const FrontDoorOptions& options,
                                                         Backend& backend);
  // Lines for the address file: where gRPC and HTTP listen.
  std::vector<std::string> AddressLines() const;
  void SetServing(bool serving) { grpc_->SetServing(serving); }
  // Lets requests under way finish until `deadline`.
  void Drain(absl::Time deadline);

 private:
  FrontDoor(const Gateway::Options& gateway, Backend& backend, absl::Duration request_time_max);

  Gateway gateway_;
  InferenceService inference_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<RpcServer> grpc_;
};

}  // namespace chorale
