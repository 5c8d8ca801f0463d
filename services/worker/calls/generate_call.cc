#include "services/worker/calls/generate_call.h"

#include <memory>
#include <utility>
#include <variant>

#include "absl/time/clock.h"
#include "rpc/convert.h"

namespace chorale {
namespace {

// Lives as long as the engine's handler and the canceller hold it. Its state belongs to the
// engine's thread.
class GenerateCall : public std::enable_shared_from_this<GenerateCall> {
 public:
  GenerateCall(Worker& worker, BlockFetcher* fetcher, v1::DecodeRequest request,
               absl::Time deadline, ChunkFn on_chunk, DoneFn on_done)
      : worker_(worker),
        fetcher_(fetcher),
        request_(std::move(request)),
        deadline_(deadline),
        on_chunk_(std::move(on_chunk)),
        on_done_(std::move(on_done)) {}

  std::function<void()> Start() {
    GenerateRequest request;
    request.model = request_.model();
    request.prompt.assign(request_.prompt().begin(), request_.prompt().end());
    request.sampling = FromProto(request_.sampling(), worker_.base().config().positions_max);
    request.n = request_.n() == 0 ? 1 : request_.n();
    request.scope = {request_.tenant_salt(), request_.public_tokens()};
    request.reuse_prefix = !request_.no_prefix_reuse();
    NameSources();
    request.await_blocks = fetcher_ != nullptr && fetcher_->CanFetch(sources_);
    request.deadline = deadline_;
    std::shared_ptr<EngineHost> host = worker_.host();
    const RequestId id = host->Start(
        std::move(request), [self = shared_from_this()](Engine& engine, EngineEvent event) {
          std::visit([&](auto& e) { self->On(engine, e); }, event);
        });
    return [host, id] { host->Cancel(id, absl::CancelledError("cancelled by the caller")); };
  }

 private:
  void On(Engine&, TokenEvent& event) {
    v1::GenerateChunk chunk = NewChunk(event.index);
    chunk.add_token_ids(event.token);
    chunk.set_text(std::move(event.text));
    if (event.logprob) {
      v1::ChosenToken* chosen = chunk.add_logprobs();
      FillLogprob(event.token, *event.logprob, *chosen->mutable_chosen());
      for (const TokenLogprob& top : event.top_logprobs) {
        FillLogprob(top.token, top.logprob, *chosen->add_top());
      }
    }
    on_chunk_(chunk);
  }

  void On(Engine&, FinishEvent& event) {
    if (!event.status.ok() && error_.ok()) error_ = event.status;
    if (event.status.ok()) {
      v1::GenerateChunk chunk = NewChunk(event.index);
      chunk.set_text(std::move(event.text));
      chunk.set_finish_reason(ToProto(event.reason));
      if (event.request_done) {
        *chunk.mutable_usage() = ToProto(event.usage);
        *chunk.mutable_timing() = ToProto(event.timing, absl::Now());
      }
      on_chunk_(chunk);
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

  void NameSources() {
    sources_.deadline = deadline_;
    sources_.prefill_address = request_.prefill_address();
    v1::PrefillRequest& prefill = sources_.prefill;
    prefill.set_model(request_.model());
    prefill.set_tenant_salt(request_.tenant_salt());
    prefill.set_public_tokens(request_.public_tokens());
    prefill.set_no_prefix_reuse(request_.no_prefix_reuse());
    if (request_.prompt_size() > 0) {
      prefill.mutable_tokens()->Assign(request_.prompt().begin(), request_.prompt().end() - 1);
    }
    if (request_.no_prefix_reuse()) return;
    *prefill.mutable_holders() = request_.holders();
    sources_.holders = {request_.holders().begin(), request_.holders().end()};
  }

  v1::GenerateChunk NewChunk(int index) {
    v1::GenerateChunk chunk;
    chunk.set_sequence_number(chunks_++);
    chunk.set_index(index);
    return chunk;
  }

  void FillLogprob(TokenId token, float logprob, v1::TokenLogprob& out) const {
    out.set_token_id(token);
    out.set_logprob(logprob);
    if (worker_.tokenizer() != nullptr)
      out.set_text(std::string(worker_.tokenizer()->BytesOf(token)));
  }

  Worker& worker_;
  BlockFetcher* const fetcher_;
  FetchSources sources_;
  const v1::DecodeRequest request_;
  const absl::Time deadline_;
  const ChunkFn on_chunk_;
  const DoneFn on_done_;
  std::function<void()> cancel_fetch_;
  int64_t chunks_ = 0;
  absl::Status error_;
};

}  // namespace

std::function<void()> StartGenerate(Worker& worker, BlockFetcher* fetcher,
                                    v1::DecodeRequest request, absl::Time deadline,
                                    ChunkFn on_chunk, DoneFn on_done) {
  if (absl::Status ready = worker.CheckReady(); !ready.ok()) {
    on_done(ready);
    return [] {};
  }
  auto call = std::make_shared<GenerateCall>(worker, fetcher, std::move(request), deadline,
                                             std::move(on_chunk), std::move(on_done));
  return call->Start();
}

}  // namespace chorale
