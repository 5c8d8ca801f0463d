#include "services/orchestrator/control_service.h"

#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "process/log.h"
#include "rpc/convert_control.h"
#include "rpc/deadline.h"
#include "rpc/status.h"

namespace chorale {
namespace {

// A watcher hears of a change at once; this often it is looked at whether its call still lives.
constexpr std::chrono::milliseconds kWatchInterval{1000};
// For a worker to read the files of one model.
constexpr absl::Duration kCatchUpTimeout = absl::Minutes(5);

// Whether a worker has answered, rather than the way to it.
bool IsWord(const grpc::Status& status) {
  return status.error_code() != grpc::StatusCode::UNAVAILABLE &&
         status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED &&
         status.error_code() != grpc::StatusCode::CANCELLED;
}

}  // namespace

ControlService::ControlService(const ControlOptions& options)
    : options_(options), expirer_([this] { ExpireLoop(); }) {}

ControlService::~ControlService() {
  Stop();
  expirer_.join();
}

void ControlService::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
}

v1::RoutingTable ControlService::TableLocked() const {
  v1::RoutingTable table;
  table.set_version(members_.version());
  for (const WorkerInfo& worker : members_.workers()) *table.add_workers() = ToProto(worker);
  return table;
}

grpc::Status ControlService::Join(
    grpc::ServerContext*, grpc::ServerReaderWriter<v1::JoinReply, v1::WorkerReport>* stream) {
  int64_t session = 0;
  {
    std::lock_guard lock(mutex_);
    session = next_session_++;
  }
  v1::JoinReply reply;
  reply.set_report_interval_ms(absl::ToInt64Milliseconds(options_.report_interval));
  v1::WorkerReport report;
  std::string id;
  absl::Status status;
  while (status.ok() && stream->Read(&report)) {
    absl::StatusOr<WorkerInfo> worker = FromProto(report);
    if (!worker.ok()) {
      status = worker.status();
      break;
    }
    if (id.empty()) {  // a new process knows nothing of earlier changes
      std::lock_guard lock(mutex_);
      caught_up_.erase(worker->id);
    }
    if (worker->ready && !worker->draining && !CatchUp(*worker)) worker->ready = false;
    {
      std::lock_guard lock(mutex_);
      if (stopping_) break;
      status = members_.Report(session, *std::move(worker), absl::Now());
    }
    changed_.notify_all();
    if (!status.ok()) break;
    if (id.empty()) LogInfo(report.worker_id(), " joined from ", report.address());
    id = report.worker_id();
    if (!stream->Write(reply)) break;
  }
  {
    std::lock_guard lock(mutex_);
    members_.Leave(session);
  }
  changed_.notify_all();
  if (!id.empty()) LogInfo(id, " left");
  return ToGrpc(status);
}

grpc::Status ControlService::WatchRouting(grpc::ServerContext* context,
                                          const v1::WatchRoutingRequest*,
                                          grpc::ServerWriter<v1::RoutingTable>* writer) {
  int64_t version = -1;
  while (!context->IsCancelled()) {
    v1::RoutingTable table;
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, kWatchInterval,
                        [&] { return stopping_ || members_.version() != version; });
      if (stopping_) break;
      table = TableLocked();
    }
    version = table.version();
    if (!writer->Write(table)) break;
  }
  return grpc::Status::OK;
}

grpc::Status ControlService::GetRouting(grpc::ServerContext*, const v1::GetRoutingRequest*,
                                        v1::RoutingTable* table) {
  std::lock_guard lock(mutex_);
  *table = TableLocked();
  return grpc::Status::OK;
}

grpc::Status ControlService::LoadModel(grpc::ServerContext* context,
                                       const v1::LoadModelRequest* request,
                                       v1::ModelChanges* changes) {
  return ChangeWorkers(*context, request->model().name(), *request, request->drain_ms(), changes);
}

grpc::Status ControlService::UnloadModel(grpc::ServerContext* context,
                                         const v1::UnloadModelRequest* request,
                                         v1::ModelChanges* changes) {
  return ChangeWorkers(*context, request->name(), std::nullopt, request->drain_ms(), changes);
}

grpc::Status ControlService::ChangeWorker(const std::string& address, const std::string& name,
                                          const std::optional<v1::LoadModelRequest>& load,
                                          int64_t drain_ms, grpc::ClientContext& call,
                                          v1::ModelChange* change) {
  const auto stub = v1::WorkerControl::NewStub(channels_.Get(address));
  if (load) return stub->LoadModel(&call, *load, change);
  v1::UnloadModelRequest unload;
  unload.set_name(name);
  unload.set_drain_ms(drain_ms);
  return stub->UnloadModel(&call, unload, change);
}

// From the first worker that takes the change on, it is the cluster's: a worker that refuses it is
// kept out of the routing table until it has caught up.
grpc::Status ControlService::ChangeWorkers(const grpc::ServerContext& context,
                                           const std::string& name,
                                           const std::optional<v1::LoadModelRequest>& load,
                                           int64_t drain_ms, v1::ModelChanges* changes) {
  std::unique_lock changing(changing_, std::try_to_lock);
  if (!changing) {
    return ToGrpc(absl::ResourceExhaustedError("another change of models is under way, try again"));
  }
  std::vector<WorkerInfo> workers;
  {
    std::lock_guard lock(mutex_);
    workers = members_.workers();
  }
  std::erase_if(workers, [](const WorkerInfo& worker) { return !worker.ready || worker.draining; });
  if (workers.empty()) return ToGrpc(absl::UnavailableError("no worker is ready, try again soon"));
  std::optional<grpc::Status> refusal;
  bool changed = false;
  for (const WorkerInfo& worker : workers) {
    // With the caller's deadline, and cancelled with the caller.
    const auto call = grpc::ClientContext::FromServerContext(context);
    v1::ModelChange change;
    const grpc::Status status = ChangeWorker(worker.address, name, load, drain_ms, *call, &change);
    const bool gone = !load && status.error_code() == grpc::StatusCode::NOT_FOUND;
    if (status.ok()) {
      v1::ModelChanges::OfWorker* entry = changes->add_workers();
      entry->set_worker_id(worker.id);
      *entry->mutable_change() = change;
    }
    if (!status.ok() && !refusal) {
      refusal = grpc::Status(status.error_code(),
                             absl::StrCat("worker ", worker.id, ": ", status.error_message()));
    }
    if (!status.ok() && !gone && !changed) break;  // the first word decides
    if (status.ok() && !changed) {
      changed = true;
      std::lock_guard lock(mutex_);
      changes_[name] = {.number = ++changes_count_, .load = load};
    }
    if (status.ok() || gone) {
      std::lock_guard lock(mutex_);
      if (changed) caught_up_[worker.id] = changes_count_;
    }
  }
  if (!refusal || (!load && changed && refusal->error_code() == grpc::StatusCode::NOT_FOUND)) {
    return grpc::Status::OK;
  }
  return grpc::Status(
      refusal->error_code(),
      absl::StrCat(refusal->error_message(),
                   changed            ? "; it gets no requests until it serves what the others do"
                   : IsWord(*refusal) ? "; nothing was changed"
                                      : "; whether it took the change is not known"));
}

bool ControlService::CatchUp(const WorkerInfo& worker) {
  bool known = false;
  int64_t number = 0;
  {
    std::lock_guard lock(mutex_);
    const auto found = caught_up_.find(worker.id);
    known = found != caught_up_.end();
    if (known) number = found->second;
    if (number == changes_count_) {
      caught_up_[worker.id] = number;
      return true;
    }
  }
  // A change under way comes to a member by itself; reports must not wait for it.
  std::unique_lock changing(changing_, std::try_to_lock);
  if (!changing) return known;
  std::map<int64_t, std::pair<std::string, std::optional<v1::LoadModelRequest>>> missed;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, change] : changes_) {
      if (change.number > number) missed[change.number] = {name, change.load};
    }
  }
  for (const auto& [number, change] : missed) {
    const auto& [name, load] = change;
    grpc::ClientContext call;
    SetDeadline(call, absl::Now() + kCatchUpTimeout);
    v1::ModelChange answer;
    const grpc::Status status = ChangeWorker(worker.address, name, load, 0, call, &answer);
    if (!status.ok() && (load || status.error_code() != grpc::StatusCode::NOT_FOUND)) {
      LogWarning(worker.id, " does not take the change of model ", name, ": ",
                 status.error_message());
      return false;
    }
    LogInfo(worker.id, " caught up with the change of model ", name);
  }
  std::lock_guard lock(mutex_);
  caught_up_[worker.id] = changes_count_;
  return true;
}

void ControlService::ExpireLoop() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    changed_.wait_for(lock, absl::ToChronoMilliseconds(options_.silence_max / 4));
    for (const std::string& id : members_.Expire(absl::Now(), options_.silence_max)) {
      LogWarning(id, " was silent for ", absl::FormatDuration(options_.silence_max), ": dropped");
    }
  }
}

}  // namespace chorale
