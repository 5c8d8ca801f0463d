// Backend: where the tokens come from. Two real ones: a cluster over gRPC, and an engine in this
// process (the judge that the cluster is compared with).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "chorale/v1/control.pb.h"
#include "chorale/v1/worker.pb.h"
#include "services/common/call.h"

namespace chorale {

// A model that can be asked for now.
struct BackendModel {
  v1::ServedModel served;
  int prefill_workers = 0;
  int decode_workers = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::vector<BackendModel> Models() const = 0;

  // Starts a call and returns a function that cancels it, safe to call at any time from any thread.
  // Chunks come in order, then `on_done` exactly once; both may come before Start returns.
  virtual std::function<void()> Start(v1::DecodeRequest request, absl::Time deadline,
                                      ChunkFn on_chunk, DoneFn on_done) = 0;
};

}  // namespace chorale
