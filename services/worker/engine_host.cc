#include "services/worker/engine_host.h"

#include <chrono>
#include <future>
#include <utility>
#include <variant>
#include <vector>

#include "absl/time/clock.h"
#include "base/check.h"

namespace chorale {
namespace {

// How often deadlines are looked at while requests wait for something other than the processor.
constexpr std::chrono::milliseconds kIdleCheck{10};

RequestId IdOf(const EngineEvent& event) {
  return std::visit([](const auto& e) { return e.id; }, event);
}

// Whether no event of the request can follow. A finished prefill stays until it is released.
bool IsLast(const EngineEvent& event) {
  if (const auto* finish = std::get_if<FinishEvent>(&event)) return finish->request_done;
  if (const auto* prefill = std::get_if<PrefillEvent>(&event)) return !prefill->status.ok();
  return false;
}

// What a request's handler is told when the engine does not take it; the status is to be filled in.
FinishEvent RefusalOf(const GenerateRequest& request) {
  return {.id = request.id,
          .reason = FinishReason::kError,
          .request_done = true,
          .usage = {.prompt_tokens = static_cast<int>(request.prompt.size())}};
}
PrefillEvent RefusalOf(const PrefillRequest& request) { return {.id = request.id}; }

}  // namespace

EngineHost::EngineHost(const EngineOptions& options, std::shared_ptr<const Transformer> base,
                       kernels::ThreadPool& pool, const Tokenizer* tokenizer)
    : engine_(std::make_unique<Engine>(options, std::move(base), pool, tokenizer)),
      stats_(engine_->stats()),
      thread_([this] { Run(); }) {}

EngineHost::~EngineHost() { Stop(); }

void EngineHost::Stop() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

bool EngineHost::Post(std::function<void(Engine&)> fn) {
  {
    std::lock_guard lock(mutex_);
    if (stopped_) return false;
    posted_.push_back(std::move(fn));
  }
  wake_.notify_one();
  return true;
}

bool EngineHost::Do(const std::function<void(Engine&)>& fn) {
  std::promise<void> done;
  if (!Post([&](Engine& engine) {
        fn(engine);
        done.set_value();
      })) {
    return false;
  }
  done.get_future().wait();
  return true;
}

RequestId EngineHost::Start(GenerateRequest request, Handler handler) {
  return Submit(std::move(request), std::move(handler));
}

RequestId EngineHost::Start(PrefillRequest request, Handler handler) {
  return Submit(std::move(request), std::move(handler));
}

template <typename AnyRequest>
RequestId EngineHost::Submit(AnyRequest request, Handler handler) {
  {
    std::lock_guard lock(mutex_);
    request.id = next_id_++;
    ++requests_live_;
  }
  const RequestId id = request.id;
  Post([this, request = std::move(request), handler = std::move(handler)](Engine& engine) mutable {
    handlers_[request.id] = std::move(handler);
    auto refusal = RefusalOf(request);
    refusal.status = engine.Submit(std::move(request));
    if (!refusal.status.ok()) Dispatch(std::move(refusal));
  });
  return id;
}

void EngineHost::Cancel(RequestId id, absl::Status why) {
  Post([id, why = std::move(why)](Engine& engine) { engine.Cancel(id, why); });
}

void EngineHost::ReleasePrefill(RequestId id) {
  Post([this, id](Engine& engine) {
    engine.ReleasePrefill(id);
    if (handlers_.erase(id) > 0) {
      std::lock_guard lock(mutex_);
      --requests_live_;
    }
  });
}

RequestId EngineHost::StartLoan(std::function<void()> on_expired) {
  RequestId id = 0;
  {
    std::lock_guard lock(mutex_);
    id = next_id_++;
  }
  Post([this, id, on_expired = std::move(on_expired)](Engine&) mutable {
    loans_[id] = std::move(on_expired);
  });
  return id;
}

void EngineHost::FinishLoan(RequestId id) {
  Post([id](Engine& engine) { engine.FinishLoan(id); });
}

void EngineHost::EndLoan(RequestId id) {
  Post([id](Engine& engine) { engine.EndLoan(id); });
}

void EngineHost::OnBlockEvents(std::function<void(std::span<const BlockEvent>)> listener) {
  Post([this, listener = std::move(listener)](Engine& engine) mutable {
    on_block_events_ = std::move(listener);
    engine.RecordBlockEvents();
  });
}

EngineStats EngineHost::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

int EngineHost::requests_live() const {
  std::lock_guard lock(mutex_);
  return requests_live_;
}

void EngineHost::Dispatch(EngineEvent event) {
  if (const auto* ended = std::get_if<LoanEndedEvent>(&event)) {
    const auto loan = loans_.extract(ended->id);
    if (!loan.empty() && ended->expired) loan.mapped()();
    return;
  }
  auto it = handlers_.find(IdOf(event));
  if (it == handlers_.end()) return;
  if (!IsLast(event)) {
    it->second(*engine_, std::move(event));
    return;
  }
  Handler handler = std::move(it->second);
  handlers_.erase(it);
  {
    std::lock_guard lock(mutex_);
    --requests_live_;
  }
  handler(*engine_, std::move(event));
}

void EngineHost::Run() {
  std::deque<std::function<void(Engine&)>> posted;
  std::vector<EngineEvent> events;
  engine_->OnLayers([this](const LayersEvent& event) { Dispatch(event); });
  bool ran = false;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      const auto has_work = [this] { return stopping_ || !posted_.empty(); };
      if (!ran && handlers_.empty() && loans_.empty()) {
        wake_.wait(lock, has_work);
      } else if (!ran) {
        wake_.wait_for(lock, kIdleCheck, has_work);
      }
      if (stopping_) break;
      posted.swap(posted_);
    }
    engine_->Advance(absl::Now());  // an idle engine's time is that of its last step
    for (auto& fn : posted) fn(*engine_);
    posted.clear();
    ran = engine_->Step(absl::Now, events);
    if (on_block_events_) {
      if (const auto changed = engine_->TakeBlockEvents(); !changed.empty())
        on_block_events_(changed);
    }
    {
      std::lock_guard lock(mutex_);
      stats_ = engine_->stats();
      prompt_token_us_ = stats_.prompt_token_us;
    }
    for (EngineEvent& event : events) Dispatch(std::move(event));
    ran |= !events.empty();  // a handler may have given the engine more to do
    events.clear();
  }
  EndAll();
}

void EngineHost::EndAll() {
  const absl::Status why = absl::UnavailableError("the worker is shutting down");
  std::deque<std::function<void(Engine&)>> posted;
  while (true) {
    std::vector<RequestId> live;
    for (const auto& [id, handler] : handlers_) live.push_back(id);
    for (RequestId id : live) engine_->Cancel(id, why);
    for (const auto& [id, on_expired] : loans_) engine_->EndLoan(id);
    loans_.clear();
    std::vector<EngineEvent> events;
    engine_->Step(absl::Now, events);  // nothing is left to run: it only tells of the ends
    for (EngineEvent& event : events) Dispatch(std::move(event));
    CHECK(handlers_.empty());
    {
      std::lock_guard lock(mutex_);
      stopped_ = posted_.empty();
      if (stopped_) return;
      posted.swap(posted_);
    }
    for (auto& fn : posted) fn(*engine_);
    posted.clear();
  }
}

}  // namespace chorale
