// One step: expire, make room, admit, run a batch, and take what came of it.
#include <algorithm>

#include "base/check.h"
#include "engine/state.h"

namespace chorale {

bool Engine::State::Step(absl::FunctionRef<absl::Time()> clock) {
  now = clock();
  for (RequestId id : not_stepped) {
    if (Request* request = Find(id)) request->timing.first_step = now;
  }
  not_stepped.clear();
  Expire();
  const bool preempted = MakeRoomForDecode();
  Admit();
  BuildBatch();
  if (batch.empty()) return preempted;
  model.Forward(model_batch, kv, logits);
  now = clock();
  ++counters.steps;
  size_t row = 0;
  const size_t vocab = model.config().vocab;
  for (size_t i = 0; i < batch.size(); ++i) {
    std::span<float> own;
    if (model_batch[i].wants_logits) own = std::span(logits).subspan(row++ * vocab, vocab);
    Advance(*batch[i].sequence, batch[i].rows, own);
  }
  return true;
}

void Engine::State::Expire() {
  while (!deadlines.empty() && deadlines.begin()->first <= now) {
    Request* request = Find(deadlines.begin()->second);
    CHECK(request != nullptr);
    CancelRequest(*request, FinishReason::kError,
                  absl::DeadlineExceededError("the request's deadline has passed"));
  }
}

// Gives each decoding sequence the block that its next row needs, the oldest first; the youngest
// lose theirs when there are not enough. True when one was preempted.
bool Engine::State::MakeRoomForDecode() {
  std::vector<Sequence*> decoding;
  for (const auto& [order, sequence] : running) {
    if (sequence->phase == Phase::kDecoding) decoding.push_back(sequence);
  }
  bool preempted = false;
  for (Sequence* sequence : decoding) {
    while (sequence->phase == Phase::kDecoding &&
           sequence->blocks.size() * kernels::kBlockTokens < sequence->tokens.size()) {
      auto block = pool.Allocate(1);
      if (block.ok()) {
        sequence->blocks.push_back(block->front());
      } else {
        preempted = PreemptYoungest();
      }
    }
  }
  return preempted;
}

// There is at least one sequence to take: the one that asks.
bool Engine::State::PreemptYoungest() {
  for (auto it = running.rbegin(); it != running.rend(); ++it) {
    Sequence& sequence = *it->second;
    const bool resumable =
        sequence.phase == Phase::kDecoding || sequence.phase == Phase::kPrefilling;
    if (resumable && !sequence.request->is_prefill) {
      Preempt(sequence);
      return true;
    }
  }
  CHECK(false) << "no sequence to preempt";
  return false;
}

// First come, first served: a request that does not fit yet holds back those behind it.
void Engine::State::Admit() {
  while (!waiting.empty() && static_cast<int>(running.size()) < options.sequences_max) {
    if (!Place(*waiting.begin()->second)) return;
  }
}

void Engine::State::BuildBatch() {
  batch.clear();
  int budget = options.step_tokens_max;
  for (const auto& [order, sequence] : running) {
    if (sequence->phase != Phase::kDecoding) continue;
    batch.push_back({sequence, 1});
    --budget;
  }
  for (const auto& [order, sequence] : running) {
    if (sequence->phase != Phase::kPrefilling || budget <= 0) continue;
    const int rows =
        std::min({options.chunk_tokens_max, budget, sequence->goal() - sequence->computed});
    batch.push_back({sequence, rows});
    budget -= rows;
  }
  // Rows of one adapter side by side are one group of the adapter kernel.
  const auto writer = [](const BatchEntry& entry) -> const Digest& {
    return entry.sequence->request->writer;
  };
  std::stable_sort(batch.begin(), batch.end(),
                   [&](const BatchEntry& a, const BatchEntry& b) { return writer(a) < writer(b); });
  model_batch.clear();
  for (const BatchEntry& entry : batch) {
    const Sequence& sequence = *entry.sequence;
    model_batch.push_back(
        {.tokens = std::span(sequence.tokens).subspan(sequence.computed, entry.rows),
         .context = sequence.computed,
         .blocks = sequence.blocks,
         .adapter = sequence.request->adapter,
         .wants_logits = sequence.phase == Phase::kDecoding});
    counters.rows += entry.rows;
  }
}

void Engine::State::Advance(Sequence& sequence, int rows, std::span<float> own_logits) {
  sequence.computed += rows;
  Publish(sequence);
  if (sequence.phase == Phase::kDecoding) {
    TakeToken(sequence, own_logits);
    return;
  }
  sequence.request->usage.computed_tokens += rows;
  counters.prompt_tokens_computed += rows;
  if (sequence.computed == sequence.goal()) {
    EndPrompt(sequence);
  } else if (sequence.request->is_prefill) {
    ReportPrefill(sequence, /*done=*/false);
  }
}

void Engine::State::TakeToken(Sequence& sequence, std::span<float> own_logits) {
  Request& r = *sequence.request;
  Sampler::Choice choice = sequence.sampler->Choose(own_logits, model.kernels());
  sequence.tokens.push_back(choice.token);
  ++r.usage.completion_tokens;
  ++counters.tokens_generated;
  if (!r.timing.first_token) r.timing.first_token = now;
  const auto among = [&](const std::vector<TokenId>& ids) {
    return std::find(ids.begin(), ids.end(), choice.token) != ids.end();
  };
  const bool ends =
      (!r.sampling.ignore_eos && among(model.config().eos_ids)) || among(r.sampling.stop_tokens);
  TokenEvent event{.id = r.id, .index = sequence.index, .token = choice.token};
  if (!ends && sequence.text) event.text = sequence.text->Add(choice.token);
  event.logprob = choice.logprob;
  event.top_logprobs = std::move(choice.top_logprobs);
  Emit(std::move(event));
  const int outputs = static_cast<int>(sequence.tokens.size() - r.prompt.size());
  if (ends || (sequence.text && sequence.text->stopped())) {
    Finish(sequence, FinishReason::kStop, absl::OkStatus());
  } else if (outputs >= r.sampling.max_tokens) {
    Finish(sequence, FinishReason::kLength, absl::OkStatus());
  }
}

}  // namespace chorale
