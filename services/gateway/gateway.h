// Gateway: what the front door does with a request, whichever protocol it came by.
//
//   HTTP --\                                                       /-- ClusterBackend (gRPC)
//           >-- CompletionRequest -> Gateway -> GenerateRequest -> Backend
//   gRPC --/    model, template,    (threads)                      \-- LocalBackend (in here)
//               tokenize, validate
//
// Thread safe. Callbacks of one call come one at a time and in order, from threads of the gateway
// or its backend; they must not block.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "api/completion.h"
#include "api/tenant.h"
#include "base/token.h"
#include "services/gateway/backend.h"

namespace chorale {

class Gateway {
 public:
  struct Options {
    int tokenizer_threads = 2;
    int queue_max = 1024;                // calls waiting to be tokenized; more are refused
    int64_t queue_bytes_max = 64 << 20;  // likewise, of their requests
    int prompt_bytes_max = 4 << 20;
    // Fields that a request does not set take what the model's generation_config.json says.
    bool use_model_defaults = true;
  };
  Gateway(const Options& options, Backend& backend);
  ~Gateway();

  // A call under way. Cancel may be called at any time, from any thread, also after the end.
  class Call {
   public:
    void Cancel();
    bool cancelled() const;

   private:
    friend class Gateway;
    void SetBackendCancel(std::function<void()> cancel);

    mutable std::mutex mutex_;
    bool cancelled_ = false;                // under mutex_
    std::function<void()> cancel_backend_;  // under mutex_
  };
  // Starts a completion for `tenant`, the only one that shares what its request does not call
  // public. on_chunk is called for every chunk, then on_done exactly once; both may be called
  // before Start returns. A request at fault ends in on_done with INVALID_ARGUMENT or
  // NOT_FOUND; too much load in RESOURCE_EXHAUSTED; no worker in UNAVAILABLE.
  std::shared_ptr<Call> Start(CompletionRequest request, Tenant tenant, absl::Time deadline,
                              ChunkFn on_chunk, DoneFn on_done);

  // Calls `on_done` once, from a thread of the gateway or before it returns.
  using TokensFn = std::function<void(absl::StatusOr<std::vector<TokenId>>)>;
  void Tokenize(std::string model, std::string text, TokensFn on_done);
  std::shared_ptr<const ModelTable> models() const;
  bool uses_model_defaults() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace chorale
