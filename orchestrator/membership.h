// Membership: who belongs to the cluster and what each last said of itself.
//
// Values in, a table out: no threads, clock or sockets. A worker joins with its first report,
// leaves when its connection ends, and is dropped when it was silent for too long. Reports carry a
// session, a number that is new for every connection: a connection that ends late cannot remove the
// worker that has joined again on a newer one.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/generation_defaults.h"
#include "base/hash.h"

namespace chorale {

enum class WorkerRole { kPrefill, kDecode };

struct ServedModelInfo {
  std::string name;
  std::string mode;
  std::string folder;
  Digest prompt_writer;
  Digest digest;  // of all its modules
  int context_tokens = 0;
  std::string context_reason;
  std::string attention;
  int short_context_tokens = 0;
  std::string text_folder;
  Digest text_digest;  // of the files beside the weights, as they were read
  GenerationDefaults defaults;
  std::vector<std::string> notes;
  int vocab = 0;
  int64_t block_bytes = 0;

  bool operator==(const ServedModelInfo&) const = default;
};

struct WorkerInfo {
  std::string id;
  std::string address;
  WorkerRole role = WorkerRole::kDecode;
  std::vector<ServedModelInfo> models;
  bool ready = false;
  bool draining = false;
  double load_progress = 0;
  int requests_running = 0;
  int requests_waiting = 0;
  int blocks_total = 0;
  int blocks_free = 0;
  int64_t pid = 0;
};

class Membership {
 public:
  // Takes in a report. InvalidArgument: no id, no address; AlreadyExists: another live process has
  // this id.
  absl::Status Report(int64_t session, WorkerInfo worker, absl::Time now);
  // The connection `session` has ended.
  void Leave(int64_t session);
  // Drops the workers that have been silent since before `now` - `silence_max`; returns their ids.
  std::vector<std::string> Expire(absl::Time now, absl::Duration silence_max);

  // In order of id.
  std::vector<WorkerInfo> workers() const;
  // Grows with every change of the table, loads included.
  int64_t version() const { return version_; }

 private:
  struct Entry {
    int64_t session = 0;
    absl::Time last_report;
    WorkerInfo worker;
  };
  std::map<std::string, Entry> entries_;
  int64_t version_ = 0;
};

}  // namespace chorale
