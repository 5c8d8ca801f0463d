// BidiStream: a ServerStream for a call whose caller streams too.
#pragma once

#include <functional>
#include <memory>

#include "rpc/server_stream.h"

namespace chorale {

// What is sent is queued as above; what the caller sends is read one message at a time.
template <typename In, typename Out>
class BidiStream : public ServerStream<Out, grpc::ServerBidiReactor<In, Out>> {
 public:
  static std::shared_ptr<BidiStream> Create() {
    std::shared_ptr<BidiStream> stream(new BidiStream);
    stream->KeepUntilDone(stream);
    return stream;
  }

  // Begins to read; called once, before the call's handler returns. `on_message` gets each message
  // on a thread of gRPC's, and the next is read when it returns. `on_end` is called once, when no
  // more will come: the caller has closed its side, or the call is over.
  void OnMessage(std::function<void(const In&)> on_message, std::function<void()> on_end) {
    on_message_ = std::move(on_message);
    on_end_ = std::move(on_end);
    this->StartRead(&in_);
  }

 private:
  BidiStream() = default;

  void OnReadDone(bool ok) override {
    if (ok) on_message_(in_);
    if (!ok || !this->IfOpen([this] { this->StartRead(&in_); })) on_end_();
  }

  void OnDone() override {
    on_message_ = nullptr;  // break cycles here too
    on_end_ = nullptr;
    ServerStream<Out, grpc::ServerBidiReactor<In, Out>>::OnDone();
  }

  In in_;
  std::function<void(const In&)> on_message_;
  std::function<void()> on_end_;
};

}  // namespace chorale
