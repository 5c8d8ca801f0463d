#include "services/gateway/inference_service.h"

#include <algorithm>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "rpc/deadline.h"
#include "rpc/server_stream.h"
#include "rpc/status.h"

namespace chorale {
namespace {

absl::StatusOr<Tenant> TenantOfCaller(const grpc::CallbackServerContext& context) {
  std::vector<std::string_view> values;
  const auto [first, last] = context.client_metadata().equal_range("authorization");
  for (auto it = first; it != last; ++it) values.emplace_back(it->second.data(), it->second.size());
  return TenantOf(values);
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateChunk>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  using Stream = ServerStream<v1::GenerateChunk>;
  auto stream = Stream::Create();
  absl::StatusOr<Tenant> tenant = TenantOfCaller(*context);
  if (!tenant.ok()) {
    stream->End(ToGrpc(tenant.status()));
    return stream.get();
  }
  std::shared_ptr<Gateway::Call> call = gateway_.Start(
      *request, *std::move(tenant), std::min(DeadlineOf(*context), absl::Now() + request_time_max_),
      [stream](const v1::GenerateChunk& chunk) {
        stream->PushOrAbort(chunk, static_cast<int64_t>(chunk.ByteSizeLong()));
      },
      [stream](absl::Status status) { stream->End(ToGrpc(status)); });
  stream->OnCancelled([call] { call->Cancel(); });
  return stream.get();
}

grpc::ServerUnaryReactor* InferenceService::ListModels(grpc::CallbackServerContext* context,
                                                       const v1::ListModelsRequest*,
                                                       v1::ListModelsResponse* response) {
  *response = gateway_.ListModels();
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const v1::TokenizeRequest* request,
                                                     v1::TokenizeResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  gateway_.Tokenize(request->model(), request->text(),
                    [reactor, response](absl::StatusOr<std::vector<TokenId>> ids) {
                      if (ids.ok()) response->mutable_token_ids()->Assign(ids->begin(), ids->end());
                      reactor->Finish(ToGrpc(ids.status()));
                    });
  return reactor;
}

}  // namespace chorale
