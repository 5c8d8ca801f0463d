// chorale.v1.Inference: the front door over gRPC.
#pragma once

#include "absl/time/time.h"
#include "chorale/v1/inference.grpc.pb.h"
#include "services/gateway/gateway.h"

namespace chorale {

// `gateway` must outlive the service. No generation runs longer than `request_time_max`.
class InferenceService : public v1::Inference::CallbackService {
 public:
  InferenceService(Gateway& gateway, absl::Duration request_time_max)
      : gateway_(gateway), request_time_max_(request_time_max) {}

  grpc::ServerWriteReactor<v1::GenerateChunk>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;

 private:
  Gateway& gateway_;
  const absl::Duration request_time_max_;
};

}  // namespace chorale
