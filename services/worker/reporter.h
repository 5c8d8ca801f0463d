// Reporter: keeps the orchestrator told about this worker, for as long as the process lives.
//
// One thread holds a Join call open, reports at the interval the orchestrator asks for, and opens
// the call anew, with growing pauses, whenever it breaks. Losing the orchestrator stops nothing.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "chorale/v1/control.grpc.pb.h"
#include "orchestrator/membership.h"

namespace chorale {

class Reporter {
 public:
  // `describe` fills in the report each time; it is called from the reporter's thread.
  Reporter(const std::string& orchestrator, std::function<WorkerInfo()> describe);
  // Leaves the cluster.
  ~Reporter();

  // Reports now rather than at the next interval: the state has changed.
  void ReportNow();

 private:
  void Run();
  // One Join call, until it breaks or the reporter ends. Whether any report was acknowledged.
  bool RunCall();
  // Waits; false when the reporter ends.
  bool Sleep(std::chrono::milliseconds duration);

  const std::unique_ptr<v1::Control::Stub> stub_;
  const std::function<WorkerInfo()> describe_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;                   // under mutex_
  bool report_now_ = false;                 // under mutex_
  grpc::ClientContext* context_ = nullptr;  // of the call under way; under mutex_
  std::thread thread_;
};

}  // namespace chorale
