#include "services/gateway/inference_service.h"

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "rpc/convert.h"
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

void FillProto(const ModelEntry& model, bool with_defaults, v1::ListModelsResponse::Model& out) {
  const ServedModelInfo& served = model.served;
  out.set_name(served.name);
  out.set_mode(served.mode);
  out.set_digest(std::string(served.digest.AsBytes()));
  out.set_context_tokens(served.context_tokens);
  out.set_context_reason(served.context_reason);
  out.set_attention(served.attention);
  if (with_defaults) *out.mutable_defaults() = ToProto(served.defaults);
  out.mutable_notes()->Assign(served.notes.begin(), served.notes.end());
  out.set_prefill_workers(model.prefill_workers);
  out.set_decode_workers(model.decode_workers);
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateChunk>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  using Stream = ServerStream<v1::GenerateChunk>;
  auto stream = Stream::Create();
  stream->SetContext(context);
  absl::StatusOr<Tenant> tenant = TenantOfCaller(*context);
  if (!tenant.ok()) {
    stream->End(ToGrpc(tenant.status()));
    return stream.get();
  }
  absl::StatusOr<CompletionRequest> completion = FromProto(*request);
  if (!completion.ok()) {
    stream->End(ToGrpc(completion.status()));
    return stream.get();
  }
  std::shared_ptr<Gateway::Call> call = gateway_.Start(
      *std::move(completion), *std::move(tenant),
      std::min(DeadlineOf(*context), absl::Now() + request_time_max_),
      [stream](CompletionChunk chunk) { stream->PushOrAbort(ToProto(std::move(chunk))); },
      [stream](absl::Status status) { stream->End(ToGrpc(status)); });
  stream->OnCancelled([call] { call->Cancel(); });
  return stream.get();
}

grpc::ServerUnaryReactor* InferenceService::ListModels(grpc::CallbackServerContext* context,
                                                       const v1::ListModelsRequest*,
                                                       v1::ListModelsResponse* response) {
  const std::shared_ptr<const ModelTable> models = gateway_.models();
  for (const ModelEntry& model : *models) {
    FillProto(model, gateway_.uses_model_defaults(), *response->add_models());
  }
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
