// Backend: where the tokens come from. Two real ones: a cluster over gRPC, and an engine in this
// process (the judge that the cluster is compared with).
#pragma once

#include <functional>
#include <memory>

#include "api/completion.h"
#include "engine/request.h"
#include "orchestrator/cluster_view.h"

namespace chorale {

class Backend {
 public:
  virtual ~Backend() = default;

  // Those that can be asked for now.
  virtual std::shared_ptr<const ModelTable> models() const = 0;

  // Starts a call and returns a function that cancels it, safe to call at any time from any thread.
  // Chunks come in order, then `on_done` exactly once; both may come before Start returns. The
  // request's id and await_blocks are the backend's.
  virtual std::function<void()> Start(GenerateRequest request, ChunkFn on_chunk,
                                      DoneFn on_done) = 0;
};

}  // namespace chorale
