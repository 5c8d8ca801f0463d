// EngineHost: the one thread that owns an Engine.
//
// Others post to it; it runs what was posted, steps the engine, and hands each event to the handler
// of its request. Handlers and posted functions run on this thread and must not block.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <span>
#include <thread>

#include "absl/container/flat_hash_map.h"
#include "engine/engine.h"

namespace chorale {

class EngineHost {
 public:
  // May call the engine.
  using Handler = std::function<void(Engine& engine, EngineEvent event)>;

  // As for Engine.
  EngineHost(const EngineOptions& options, std::shared_ptr<const Transformer> base,
             kernels::ThreadPool& pool, const Tokenizer* tokenizer);
  ~EngineHost();

  // Ends what runs, with Unavailable, and joins the thread. Must be called before pool and
  // tokenizer go; not from the engine's thread.
  void Stop();

  // Runs `fn` on the engine's thread, in order of posting. False when the host has stopped: `fn`
  // will not run.
  bool Post(std::function<void(Engine&)> fn);
  // The same, and waits until it has run. Not from the engine's thread.
  bool Do(const std::function<void(Engine&)>& fn);

  // Not after Stop. Submits a request under an id of its own, which is returned. Every event of it
  // goes to `handler`. A refusal is an event too: a FinishEvent or PrefillEvent with its status.
  RequestId Start(GenerateRequest request, Handler handler);
  RequestId Start(PrefillRequest request, Handler handler);
  // Ends a request; its handler hears of it as of any end.
  void Cancel(RequestId id, absl::Status why);
  // Drops a prefill request's blocks and handler.
  void ReleasePrefill(RequestId id);

  // An id for a loan (Engine::Lend); `on_expired` is told when its lease runs out. It must be ended:
  // by FinishLoan, when the last block is returned, or by EndLoan, at once.
  RequestId StartLoan(std::function<void()> on_expired);
  void FinishLoan(RequestId id);
  void EndLoan(RequestId id);

  // Hears of blocks that became findable or ceased to be, on the engine's thread. Call before the
  // first request.
  void OnBlockEvents(std::function<void(std::span<const BlockEvent>)> listener);

  // As of the last step.
  EngineStats stats() const;
  double prompt_token_us() const { return prompt_token_us_; }
  // Requests whose handler still waits for an event.
  int requests_live() const;

 private:
  template <typename AnyRequest>
  RequestId Submit(AnyRequest request, Handler handler);
  void Run();
  void EndAll();
  void Dispatch(EngineEvent event);

  std::unique_ptr<Engine> engine_;                    // the thread's
  absl::flat_hash_map<RequestId, Handler> handlers_;  // the thread's
  absl::flat_hash_map<RequestId, std::function<void()>> loans_;            // the thread's
  std::function<void(std::span<const BlockEvent>)> on_block_events_;       // the thread's
  std::atomic<double> prompt_token_us_ = 0;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void(Engine&)>> posted_;  // under mutex_
  EngineStats stats_;                                // under mutex_
  int requests_live_ = 0;                            // under mutex_
  RequestId next_id_ = 1;                            // under mutex_
  bool stopping_ = false;                            // under mutex_
  bool stopped_ = false;                             // under mutex_
  std::thread thread_;
};

}  // namespace chorale
