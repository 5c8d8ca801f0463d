#include "services/orchestrator/control_service.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "rpc/convert_control.h"
#include "rpc/status.h"
#include "services/common/log.h"

namespace chorale {
namespace {

// A watcher hears of a change at once; this often it is looked at whether its call still lives.
constexpr std::chrono::milliseconds kWatchInterval{1000};

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
  return ChangeWorkers(
      *context,
      [&](v1::WorkerControl::Stub& stub, grpc::ClientContext* call, v1::ModelChange* change) {
        return stub.LoadModel(call, *request, change);
      },
      changes);
}

grpc::Status ControlService::UnloadModel(grpc::ServerContext* context,
                                         const v1::UnloadModelRequest* request,
                                         v1::ModelChanges* changes) {
  return ChangeWorkers(
      *context,
      [&](v1::WorkerControl::Stub& stub, grpc::ClientContext* call, v1::ModelChange* change) {
        return stub.UnloadModel(call, *request, change);
      },
      changes);
}

grpc::Status ControlService::ChangeWorkers(const grpc::ServerContext& context,
                                           const ChangeFn& change, v1::ModelChanges* changes) {
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
  std::string changed;
  for (const WorkerInfo& worker : workers) {
    const auto stub = v1::WorkerControl::NewStub(channels_.Get(worker.address));
    grpc::ClientContext call;
    call.set_deadline(context.deadline());
    v1::ModelChanges::OfWorker* entry = changes->add_workers();
    entry->set_worker_id(worker.id);
    const grpc::Status status = change(*stub, &call, entry->mutable_change());
    if (!status.ok()) {
      return grpc::Status(
          status.error_code(),
          absl::StrCat("worker ", worker.id, ": ", status.error_message(),
                       changed.empty() ? "; nothing was changed" : "; changed before:", changed));
    }
    absl::StrAppend(&changed, " ", worker.id);
  }
  return grpc::Status::OK;
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
