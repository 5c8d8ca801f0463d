// ServerStream: the sending side of a streaming call, for producers on other threads.
//
// gRPC allows one write at a time and one end; a ServerStream queues what comes in between. It
// keeps itself alive until gRPC is done with it, so that a producer may hold it longer than the
// call lasts: what is pushed after the end is dropped. Thread safe.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include "absl/strings/str_format.h"
#include "rpc/limits.h"

namespace chorale {

template <typename Message, typename Reactor = grpc::ServerWriteReactor<Message>>
class ServerStream : public Reactor {
 public:
  static std::shared_ptr<ServerStream> Create() {
    std::shared_ptr<ServerStream> stream(new ServerStream);
    stream->KeepUntilDone(stream);
    return stream;
  }

  // Queues a message that counts for `bytes`.
  void Push(Message message, int64_t bytes) {
    std::lock_guard lock(mutex_);
    if (ended_ || cancelled_) return;
    bytes_pending_ += bytes;
    queue_.push_back({std::move(message), bytes});
    if (queue_.size() == 1) this->StartWrite(&queue_.front().message);
  }

  // The same, for producers that do not pause: ends the call when its caller does not read.
  void PushOrAbort(Message message) {
    const auto bytes = static_cast<int64_t>(message.ByteSizeLong());
    Push(std::move(message), bytes);
    if (bytes_pending() <= kStreamBytesMax) return;
    Abort(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED,
                       absl::StrFormat("the stream is not read: more than %d bytes are waiting",
                                       kStreamBytesMax)));
  }

  // Ends the call after what is queued. Only the first end counts.
  void End(grpc::Status status) {
    std::lock_guard lock(mutex_);
    if (ended_) return;
    ended_ = std::move(status);
    if (queue_.empty()) this->Finish(*ended_);
  }

  // Ends the call now, dropping what is queued, and tells the producer as a cancellation would. A
  // write that its caller does not take would never end: then the call is cancelled, where its
  // context is known.
  void Abort(grpc::Status status) {
    {
      std::lock_guard lock(mutex_);
      if (ended_) return;
      while (queue_.size() > 1) {
        bytes_pending_ -= queue_.back().bytes;
        queue_.pop_back();
      }
      ended_ = std::move(status);
      if (queue_.empty()) {
        this->Finish(*ended_);
      } else if (context_ != nullptr) {
        context_->TryCancel();
      }
    }
    OnCancel();
  }
  // The call's own, which lives as long as the call.
  void SetContext(grpc::CallbackServerContext* context) { context_ = context; }

  // What is queued and not yet taken by the transport; for producers that pause.
  int64_t bytes_pending() const {
    std::lock_guard lock(mutex_);
    return bytes_pending_;
  }

  // Called once when the caller cancels or is lost; at once when that has happened already.
  void OnCancelled(std::function<void()> fn) {
    {
      std::lock_guard lock(mutex_);
      if (!cancelled_) {
        on_cancelled_ = std::move(fn);
        return;
      }
    }
    fn();
  }

  // Called after each write that succeeded.
  void OnWritten(std::function<void()> fn) {
    std::lock_guard lock(mutex_);
    on_written_ = std::move(fn);
  }

 protected:
  ServerStream() = default;

  // `self` is let go when gRPC is done with the call.
  void KeepUntilDone(std::shared_ptr<ServerStream> self) { self_ = std::move(self); }
  // Runs `fn` under the lock and returns true, unless the call was ended or lost.
  template <typename Fn>
  bool IfOpen(Fn fn) {
    std::lock_guard lock(mutex_);
    if (ended_ || cancelled_) return false;
    fn();
    return true;
  }

  void OnDone() override {
    std::shared_ptr<ServerStream> self;  // let go after the lock
    std::lock_guard lock(mutex_);
    on_cancelled_ = nullptr;  // break cycles between the stream and what serves it
    on_written_ = nullptr;
    self = std::move(self_);
  }

 private:
  struct Queued {
    Message message;
    int64_t bytes = 0;
  };

  void OnWriteDone(bool ok) override {
    std::function<void()> written;
    {
      std::lock_guard lock(mutex_);
      bytes_pending_ -= queue_.front().bytes;
      queue_.pop_front();
      if (!ok) {  // the call is broken: nothing more can be sent
        queue_.clear();
        bytes_pending_ = 0;
        cancelled_ = true;
        if (ended_) this->Finish(*ended_);
        return;
      }
      if (!queue_.empty()) {
        this->StartWrite(&queue_.front().message);
      } else if (ended_) {
        this->Finish(*ended_);
      }
      written = on_written_;
    }
    if (written) written();
  }

  void OnCancel() override {
    std::function<void()> fn;
    {
      std::lock_guard lock(mutex_);
      cancelled_ = true;
      fn = std::exchange(on_cancelled_, nullptr);
    }
    if (fn) fn();
  }

  grpc::CallbackServerContext* context_ = nullptr;
  mutable std::mutex mutex_;
  std::deque<Queued> queue_;  // the front is being written
  int64_t bytes_pending_ = 0;
  bool cancelled_ = false;
  std::optional<grpc::Status> ended_;
  std::function<void()> on_cancelled_;
  std::function<void()> on_written_;
  std::shared_ptr<ServerStream> self_;
};

}  // namespace chorale
