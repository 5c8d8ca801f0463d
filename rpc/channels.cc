#include "rpc/channels.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include "rpc/blocks/read_buffers.h"
#include "rpc/limits.h"

namespace chorale {

std::shared_ptr<grpc::Channel> OpenChannel(const std::string& address) {
  KeepReadBuffers();
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  arguments.SetMaxSendMessageSize(kMessageBytesMax);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  // How long one attempt may take, in spite of the name; the time between attempts is not bound by
  // it.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectTimeoutMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

// Those that nobody uses go when there are many: addresses come from outside.
constexpr size_t kChannelsKeptMax = 256;

std::shared_ptr<grpc::Channel> Channels::Get(const std::string& address, int n) {
  std::lock_guard lock(mutex_);
  if (channels_.size() >= kChannelsKeptMax && !channels_.contains({address, n})) {
    absl::erase_if(channels_, [](const auto& entry) { return entry.second.use_count() == 1; });
  }
  std::shared_ptr<grpc::Channel>& channel = channels_[{address, n}];
  if (channel == nullptr) channel = OpenChannel(address);
  return channel;
}

}  // namespace chorale
