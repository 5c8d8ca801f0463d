#include "services/worker/calls/generate_call.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "absl/time/clock.h"

namespace chorale {
namespace {

// `end` is when the request ended.
CallTimes TimesOf(const Timing& timing, absl::Time end) {
  if (!timing.first_step) return {};
  const auto since = [](std::optional<absl::Time> begin, std::optional<absl::Time> end) {
    return begin && end ? *end - *begin : absl::ZeroDuration();
  };
  return {.queue = since(timing.first_step, timing.admitted),
          .prefill = since(timing.admitted, timing.prompt_ready),
          .first_token = since(timing.first_step, timing.first_token),
          .total = end - *timing.first_step};
}

// Lives as long as the engine's handler and the canceller hold it. Its state belongs to the
// engine's thread.
class GenerateCall : public std::enable_shared_from_this<GenerateCall> {
 public:
  GenerateCall(Worker& worker, BlockFetcher* fetcher, FetchSources sources, ChunkFn on_chunk,
               DoneFn on_done)
      : worker_(worker),
        fetcher_(fetcher),
        sources_(std::move(sources)),
        on_chunk_(std::move(on_chunk)),
        on_done_(std::move(on_done)) {}

  std::function<void()> Start(GenerateRequest request) {
    sources_.model = request.model;
    sources_.scope = request.scope;
    sources_.reuse_prefix = request.reuse_prefix;
    sources_.deadline = request.deadline;
    if (!request.prompt.empty()) {
      sources_.tokens.assign(request.prompt.begin(), request.prompt.end() - 1);
    }
    request.await_blocks = fetcher_ != nullptr && fetcher_->CanFetch(sources_);
    std::shared_ptr<EngineHost> host = worker_.host();
    const RequestId id = host->Start(
        std::move(request), [self = shared_from_this()](Engine& engine, EngineEvent event) {
          std::visit([&](auto& e) { self->On(engine, e); }, event);
        });
    return [host, id] { host->Cancel(id, absl::CancelledError("cancelled by the caller")); };
  }

 private:
  void On(Engine&, TokenEvent& event) {
    CompletionChunk chunk = NewChunk(event.index);
    chunk.tokens = {event.token};
    chunk.text = std::move(event.text);
    if (event.logprob) {
      ChosenToken& token = chunk.logprobs.emplace_back();
      token.chosen = TextOf({.token = event.token, .logprob = *event.logprob});
      for (const TokenLogprob& top : event.top_logprobs) token.top.push_back(TextOf(top));
    }
    on_chunk_(std::move(chunk));
  }

  void On(Engine&, FinishEvent& event) {
    if (!event.status.ok() && error_.ok()) error_ = event.status;
    if (event.status.ok()) {
      CompletionChunk chunk = NewChunk(event.index);
      chunk.text = std::move(event.text);
      chunk.finish = event.reason;
      if (event.request_done) {
        chunk.usage = event.usage;
        chunk.times = TimesOf(event.timing, absl::Now());
      }
      on_chunk_(std::move(chunk));
    }
    if (!event.request_done) return;
    if (cancel_fetch_) cancel_fetch_();
    cancel_fetch_ = nullptr;
    on_done_(error_);
  }

  void On(Engine&, NeedBlocksEvent& event) {
    cancel_fetch_ = fetcher_->Start(event, std::move(sources_));
  }

  void On(Engine&, LayersEvent&) {}     // of prefill requests only
  void On(Engine&, LoanEndedEvent&) {}  // of loans only
  void On(Engine&, PrefillEvent&) {}  // of prefill requests only

  CompletionChunk NewChunk(int index) { return {.number = chunks_++, .index = index}; }

  TokenText TextOf(const TokenLogprob& token) const {
    TokenText text = {.token = token.token, .logprob = token.logprob};
    const Tokenizer* tokenizer = worker_.tokenizer();
    if (tokenizer != nullptr) text.bytes = std::string(tokenizer->BytesOf(token.token));
    return text;
  }

  Worker& worker_;
  BlockFetcher* const fetcher_;
  FetchSources sources_;
  const ChunkFn on_chunk_;
  const DoneFn on_done_;
  std::function<void()> cancel_fetch_;
  int64_t chunks_ = 0;
  absl::Status error_;
};

}  // namespace

std::function<void()> StartGenerate(Worker& worker, BlockFetcher* fetcher, GenerateRequest request,
                                    FetchSources sources, ChunkFn on_chunk, DoneFn on_done) {
  if (absl::Status ready = worker.CheckReady(); !ready.ok()) {
    on_done(ready);
    return [] {};
  }
  auto call = std::make_shared<GenerateCall>(worker, fetcher, std::move(sources),
                                             std::move(on_chunk), std::move(on_done));
  return call->Start(std::move(request));
}

}  // namespace chorale
