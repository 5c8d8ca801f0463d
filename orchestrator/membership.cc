#include "orchestrator/membership.h"

#include <utility>

#include "absl/strings/str_format.h"

namespace chorale {

absl::Status Membership::Report(int64_t session, WorkerInfo worker, absl::Time now) {
  if (worker.id.empty()) return absl::InvalidArgumentError("worker_id is empty");
  if (worker.address.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat("worker '%s': address is empty", worker.id));
  }
  Entry& entry = entries_[worker.id];
  if (entry.session != 0 && entry.session != session) {
    if (entry.worker.pid != worker.pid || entry.worker.address != worker.address) {
      return absl::AlreadyExistsError(absl::StrFormat(
          "worker '%s' is a member already, at %s: give this one another --worker-id", worker.id,
          entry.worker.address));
    }
  }
  entry = {.session = session, .last_report = now, .worker = std::move(worker)};
  ++version_;
  return absl::OkStatus();
}

void Membership::Leave(int64_t session) {
  if (std::erase_if(entries_, [&](const auto& e) { return e.second.session == session; }) > 0) {
    ++version_;
  }
}

std::vector<std::string> Membership::Expire(absl::Time now, absl::Duration silence_max) {
  std::vector<std::string> gone;
  std::erase_if(entries_, [&](const auto& e) {
    if (now - e.second.last_report <= silence_max) return false;
    gone.push_back(e.first);
    return true;
  });
  if (!gone.empty()) ++version_;
  return gone;
}

std::vector<WorkerInfo> Membership::workers() const {
  std::vector<WorkerInfo> workers;
  workers.reserve(entries_.size());
  for (const auto& [id, entry] : entries_) workers.push_back(entry.worker);
  return workers;
}

}  // namespace chorale
