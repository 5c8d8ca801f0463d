#include "rpc/server.h"

#include <array>
#include <condition_variable>
#include <mutex>
#include <vector>

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/support/server_interceptor.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "rpc/blocks/read_buffers.h"
#include "rpc/limits.h"

namespace chorale {
namespace {

// Process-wide settings of gRPC, which must precede the first server.
void EnablePlugins() {
  static std::once_flag once;
  std::call_once(once, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
}

}  // namespace

// Counts the running calls of our own services, those from before a drain apart from later ones.
// (Health watches and reflection streams last as long as their clients like.)
class RpcServer::CallCount : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    return absl::StartsWith(info->method(), "/chorale.") ? new Call(*this) : nullptr;
  }

  // Waits until no call lives that began before this.
  void AwaitEarlierCalls(absl::Time deadline) {
    std::unique_lock lock(mutex_);
    draining_ = true;
    ended_.wait_until(lock, absl::ToChronoTime(deadline), [this] { return live_[0] == 0; });
  }

 private:
  // Lives as long as its call.
  class Call : public grpc::experimental::Interceptor {
   public:
    explicit Call(CallCount& count) : count_(count) {
      std::lock_guard lock(count_.mutex_);
      later_ = count_.draining_;
      ++count_.live_[later_];
    }
    ~Call() override {
      std::lock_guard lock(count_.mutex_);
      --count_.live_[later_];
      count_.ended_.notify_all();
    }
    void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
      methods->Proceed();
    }

   private:
    CallCount& count_;
    bool later_ = false;
  };

  std::mutex mutex_;
  std::condition_variable ended_;
  std::array<int, 2> live_{};  // under mutex_: begun before the drain, and later
  bool draining_ = false;      // under mutex_
};

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(
    const std::string& address, const std::vector<grpc::Service*>& services) {
  EnablePlugins();
  KeepReadBuffers();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(kMessageBytesMax);
  builder.SetMaxSendMessageSize(kMessageBytesMax);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  for (grpc::Service* service : services) builder.RegisterService(service);

  auto calls = std::make_unique<CallCount>();
  CallCount* const calls_borrowed = calls.get();
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(std::move(calls));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));

  std::unique_ptr<RpcServer> server(new RpcServer);
  server->calls_ = calls_borrowed;
  server->server_ = builder.BuildAndStart();
  if (server->server_ == nullptr || port == 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "cannot listen on '%s': the address is in use or not ours; choose another with --listen",
        address));
  }
  const bool is_unix = absl::StartsWith(address, "unix:");
  server->address_ =
      is_unix ? address : absl::StrCat(address.substr(0, address.rfind(':') + 1), port);
  server->SetServing(false);
  return server;
}

RpcServer::~RpcServer() { Drain(absl::InfinitePast()); }

void RpcServer::SetServing(bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(serving);
}

void RpcServer::Drain(absl::Time deadline) {
  if (server_ == nullptr) return;
  SetServing(false);
  calls_->AwaitEarlierCalls(deadline);
  server_->Shutdown(absl::ToChronoTime(deadline));
  server_->Wait();
  server_ = nullptr;
}

}  // namespace chorale
