#include "services/worker/reporter.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "process/log.h"
#include "rpc/channels.h"
#include "rpc/convert_control.h"

namespace chorale {
namespace {

constexpr std::chrono::milliseconds kBackoffMin{100};
constexpr std::chrono::milliseconds kBackoffMax{2000};

}  // namespace

Reporter::Reporter(const std::string& orchestrator, std::function<WorkerInfo()> describe)
    : stub_(v1::Control::NewStub(OpenChannel(orchestrator))),
      describe_(std::move(describe)),
      thread_([this] { Run(); }) {}

Reporter::~Reporter() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    if (context_ != nullptr) context_->TryCancel();
  }
  wake_.notify_one();
  thread_.join();
}

void Reporter::ReportNow() {
  {
    std::lock_guard lock(mutex_);
    report_now_ = true;
  }
  wake_.notify_one();
}

bool Reporter::Sleep(std::chrono::milliseconds duration) {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, duration, [this] { return stopping_ || report_now_; });
  report_now_ = false;
  return !stopping_;
}

bool Reporter::RunCall() {
  grpc::ClientContext context;
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return false;
    context_ = &context;
  }
  auto call = stub_->Join(&context);
  bool joined = false;
  v1::JoinReply reply;
  while (call->Write(ToProto(describe_())) && call->Read(&reply)) {
    if (!joined) LogInfo("joined the cluster");
    joined = true;
    if (!Sleep(std::chrono::milliseconds(
            std::clamp<int64_t>(reply.report_interval_ms(), 10, 60'000)))) {
      break;
    }
  }
  call->WritesDone();
  const grpc::Status status = call->Finish();
  std::lock_guard lock(mutex_);
  context_ = nullptr;
  if (joined && !stopping_) {
    LogWarning("lost the orchestrator: ", status.error_message(), "; joining again");
  }
  return joined;
}

void Reporter::Run() {
  std::chrono::milliseconds backoff = kBackoffMin;
  do {
    backoff = RunCall() ? kBackoffMin : std::min(2 * backoff, kBackoffMax);
  } while (Sleep(backoff));
}

}  // namespace chorale
