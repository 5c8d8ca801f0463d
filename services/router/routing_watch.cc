#include "services/router/routing_watch.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "process/log.h"
#include "rpc/channels.h"
#include "rpc/convert_control.h"

namespace chorale {
namespace {

constexpr std::chrono::milliseconds kRetry{300};
// How long workers that a new orchestrator does not know yet are kept: they will join it.
constexpr absl::Duration kKeepAbsent = absl::Seconds(3);

bool Contains(const std::vector<WorkerInfo>& workers, const std::string& id) {
  return std::any_of(workers.begin(), workers.end(),
                     [&](const WorkerInfo& worker) { return worker.id == id; });
}

}  // namespace

RoutingWatch::RoutingWatch(const std::string& orchestrator,
                           std::function<void(const std::vector<WorkerInfo>&)> on_workers)
    : address_(orchestrator),
      stub_(v1::Control::NewStub(OpenChannel(orchestrator))),
      on_workers_(std::move(on_workers)),
      thread_([this] { Run(); }) {}

RoutingWatch::~RoutingWatch() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    if (context_ != nullptr) context_->TryCancel();
  }
  wake_.notify_one();
  thread_.join();
}

std::shared_ptr<const ClusterView> RoutingWatch::view() const {
  std::lock_guard lock(mutex_);
  return view_;
}

bool RoutingWatch::connected() const {
  std::lock_guard lock(mutex_);
  return connected_;
}

absl::StatusOr<RoutingWatch::Lease> RoutingWatch::Acquire(std::string_view model,
                                                         std::string_view avoid) {
  std::lock_guard lock(mutex_);
  if (!connected_) {
    return absl::UnavailableError(
        absl::StrFormat("the orchestrator at %s has not answered yet", address_));
  }
  ASSIGN_OR_RETURN(const Route route,
                   ChooseRoute(view_->workers, model, avoid, under_way_, turn_++));
  ++under_way_[route.decode->id];
  if (route.prefill != nullptr) ++under_way_[route.prefill->id];
  return Lease{.view = view_, .route = route};
}

void RoutingWatch::Release(const Lease& lease) {
  std::lock_guard lock(mutex_);
  const auto drop = [this](const std::string& id) {
    auto it = under_way_.find(id);
    if (--it->second == 0) under_way_.erase(it);
  };
  drop(lease.route.decode->id);
  if (lease.route.prefill != nullptr) drop(lease.route.prefill->id);
}

void RoutingWatch::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    grpc::ClientContext context;
    context_ = &context;
    const absl::Time keep_until = connected_ ? absl::Now() + kKeepAbsent : absl::InfinitePast();
    lock.unlock();
    auto reader = stub_->WatchRouting(&context, {});
    v1::RoutingTable table;
    while (reader->Read(&table)) {
      std::vector<WorkerInfo> workers;
      for (const v1::WorkerReport& report : table.workers()) {
        if (absl::StatusOr<WorkerInfo> worker = FromProto(report); worker.ok()) {
          workers.push_back(*std::move(worker));
        }
      }
      std::unique_lock table_lock(mutex_);
      if (!connected_) LogInfo("routing table received from ", address_);
      connected_ = true;
      if (absl::Now() < keep_until) {
        for (const WorkerInfo& worker : view_->workers) {
          if (!Contains(workers, worker.id)) workers.push_back(worker);
        }
      }
      auto models = std::make_shared<const ModelTable>(ModelTable::Of(workers));
      const auto view = std::make_shared<const ClusterView>(
          ClusterView{.workers = std::move(workers), .models = std::move(models)});
      view_ = view;
      table_lock.unlock();
      on_workers_(view->workers);
    }
    const grpc::Status status = reader->Finish();
    lock.lock();
    context_ = nullptr;
    if (stopping_) break;
    LogWarning("routing watch of ", address_, " ended (", status.error_message(),
               "); the last table stays in use");
    wake_.wait_for(lock, kRetry, [this] { return stopping_; });
  }
}

}  // namespace chorale
