#include "services/gateway/front_door.h"

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace chorale {

void AddFrontDoorFlags(CLI::App& app, FrontDoorOptions& options) {
  app.add_option("--http", options.http, "HTTP address: host:port (port 0 picks one)")
      ->capture_default_str();
  app.add_option("--request-seconds", options.request_seconds_max,
                 "no generation runs longer, whatever deadline it brings")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 86400.0));
  app.add_option("--generation-config", options.generation_config,
                 "where unset sampling fields come from: model (its generation_config.json) or off")
      ->capture_default_str()
      ->check(CLI::IsMember({"model", "off"}));
}

FrontDoor::FrontDoor(const Gateway::Options& gateway, Backend& backend,
                     absl::Duration request_time_max)
    : gateway_(gateway, backend), inference_(gateway_, request_time_max) {}

absl::StatusOr<std::unique_ptr<FrontDoor>> FrontDoor::Open(const FrontDoorOptions& options,
                                                           Backend& backend) {
  const absl::Duration request_time_max = absl::Seconds(options.request_seconds_max);
  const Gateway::Options gateway = {.use_model_defaults = options.generation_config == "model"};
  std::unique_ptr<FrontDoor> door(new FrontDoor(gateway, backend, request_time_max));
  HttpServerOptions http = {.address = options.http};
  http.limits.request_time_max = request_time_max;
  ASSIGN_OR_RETURN(door->http_, HttpServer::Open(http, door->gateway_));
  ASSIGN_OR_RETURN(door->grpc_, RpcServer::Start(options.grpc, {&door->inference_}));
  return door;
}

std::vector<std::string> FrontDoor::AddressLines() const {
  return {absl::StrCat("grpc=", grpc_->address()), absl::StrCat("http=", http_->address())};
}

void FrontDoor::Drain(absl::Time deadline) {
  std::thread http([this, deadline] { http_->Drain(deadline); });
  grpc_->Drain(deadline);
  http.join();
}

}  // namespace chorale
