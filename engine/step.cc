// One step: expire, make room, admit, run a batch, and take what came of it.
#include <algorithm>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "engine/state.h"

namespace chorale {
namespace {

// Whether the sequence may be preempted and computed again.
bool IsResumable(const Sequence& sequence) {
  return !sequence.request->is_prefill &&
         (sequence.phase == Phase::kDecoding || sequence.phase == Phase::kPrefilling);
}

}  // namespace

bool Engine::State::Step(absl::FunctionRef<absl::Time()> clock) {
  now = clock();
  for (RequestId id : not_stepped) {
    if (Request* request = Find(id)) request->timing.first_step = now;
  }
  not_stepped.clear();
  Expire();
  const bool preempted = MakeRoom();
  Admit();
  BuildBatch();
  if (batch.empty()) return preempted;
  RunBatch();
  const absl::Time begin = std::exchange(now, clock());
  NotePace(now - begin);
  ++counters.steps;
  size_t row = 0;
  const size_t vocab = base->config().vocab;
  for (const BatchEntry& entry : batch) {
    std::span<float> own;
    if (entry.sequence->phase == Phase::kDecoding) {
      own = std::span(logits).subspan(row++ * vocab, vocab);
    }
    Advance(*entry.sequence, entry.rows, own);
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
  ExpireLoans();
}

// Gives each sequence the blocks that its next rows need, the oldest first; the youngest lose
// theirs when there are not enough. True when one was preempted.
bool Engine::State::MakeRoom() {
  std::vector<Sequence*> growing;
  for (const auto& [order, sequence] : running) {
    if (IsResumable(*sequence)) growing.push_back(sequence);
  }
  bool preempted = false;
  for (Sequence* sequence : growing) {
    while (IsResumable(*sequence) && static_cast<int>(sequence->blocks.size()) <
                                         BlocksToHold(*sequence, sequence->computed)) {
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
    if (!IsResumable(*it->second)) continue;
    Preempt(*it->second);
    return true;
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
    const Model& model = *sequence->request->model;
    batch.push_back({.sequence = sequence, .rows = 1, .writer = &model.output_writer});
    budget -= model.reader() != nullptr ? 2 : 1;
  }
  for (const auto& [order, sequence] : running) {
    if (sequence->phase != Phase::kPrefilling || budget <= 0) continue;
    // What a preempted sequence had generated is written again by the output writer.
    const Model& model = *sequence->request->model;
    const bool in_prompt = sequence->computed < sequence->boundary();
    const int end = in_prompt ? sequence->boundary() : sequence->goal();
    const int rows = std::min({options.chunk_tokens_max, budget, end - sequence->computed});
    batch.push_back({.sequence = sequence,
                     .rows = rows,
                     .writer = in_prompt ? &model.prompt_writer : &model.output_writer});
    budget -= rows;
  }
  // Entries of the same weights side by side are one pass, rows of the same adapter in it one group
  // of the adapter kernel.
  const auto order = [](const BatchEntry& entry) {
    const Model& model = *entry.sequence->request->model;
    return std::tie(entry.writer->transformer->digest(), entry.writer->digest(),
                    model.predictor.digest());
  };
  std::stable_sort(batch.begin(), batch.end(),
                   [&](const BatchEntry& a, const BatchEntry& b) { return order(a) < order(b); });
}

BatchSequence Engine::State::RowsOf(const BatchEntry& entry) const {
  const Sequence& sequence = *entry.sequence;
  const Model& model = *sequence.request->model;
  const bool decoding = sequence.phase == Phase::kDecoding;
  return {.tokens = std::span(sequence.tokens).subspan(sequence.computed, entry.rows),
          .context = sequence.computed,
          .blocks = sequence.blocks,
          .adapter = entry.writer->adapter.get(),
          .reader = decoding ? model.reader() : nullptr,
          .wants_logits = decoding,
          .long_context = InLongContext(sequence)};
}

// One pass for each set of base weights in the batch.
void Engine::State::RunBatch() {
  logits.clear();
  for (size_t begin = 0, end = 0; begin < batch.size(); begin = end) {
    const Transformer& transformer = *batch[begin].writer->transformer;
    model_batch.clear();
    while (end < batch.size() && batch[end].writer->transformer->digest() == transformer.digest()) {
      model_batch.push_back(RowsOf(batch[end++]));
    }
    forward.Run(transformer, model_batch, kv, logits,
                [&](int layers) { TellLayers(begin, end, layers); });
    CountPass(begin, end);
  }
}

// Which blocks of prefill requests the entries [begin, end) of the batch complete, as far as their
// first `layers` layers. The end of the batch tells of the last layer.
void Engine::State::TellLayers(size_t begin, size_t end, int layers) {
  if (!on_layers || layers == shape.layers) return;
  for (size_t i = begin; i < end; ++i) {
    const Sequence& sequence = *batch[i].sequence;
    if (!sequence.request->is_prefill) continue;
    const int tokens = sequence.computed + batch[i].rows;
    const int blocks =
        tokens == sequence.goal() ? BlocksOf(tokens) : tokens / kernels::kBlockTokens;
    const int first = sequence.computed / kernels::kBlockTokens;
    if (first == blocks) continue;
    on_layers(
        {.id = sequence.request->id, .first_block = first, .blocks = blocks, .layers = layers});
  }
}

// How long a prompt's token takes: of batches that are mostly prompts, smoothed.
void Engine::State::NotePace(absl::Duration took) {
  constexpr double kNewest = 0.2;
  constexpr int kRowsMin = 16;
  int rows = 0;
  int prompt_rows = 0;
  for (const BatchEntry& entry : batch) {
    rows += entry.rows;
    if (entry.sequence->phase == Phase::kPrefilling) prompt_rows += entry.rows;
  }
  if (prompt_rows < kRowsMin || 2 * prompt_rows < rows) return;
  const double us = absl::ToDoubleMicroseconds(took) / rows;
  prompt_token_us = prompt_token_us == 0 ? us : kNewest * us + (1 - kNewest) * prompt_token_us;
}

void Engine::State::Advance(Sequence& sequence, int rows, std::span<float> own_logits) {
  sequence.computed += rows;
  Publish(sequence);
  ReleaseHidden(sequence);
  if (sequence.phase == Phase::kDecoding) {
    TakeToken(sequence, own_logits);
    return;
  }
  sequence.request->usage.computed_tokens += rows;
  counters.prompt_tokens_computed += rows;
  counters.models[sequence.request->model->name].prompt_tokens_computed += rows;
  if (sequence.computed == sequence.goal()) {
    EndPrompt(sequence);
  } else if (sequence.request->is_prefill) {
    ReportPrefill(sequence, /*done=*/false);
  }
}

void Engine::State::TakeToken(Sequence& sequence, std::span<float> own_logits) {
  Request& r = *sequence.request;
  Sampler::Choice choice = sequence.sampler->Choose(own_logits, base->kernels());
  sequence.tokens.push_back(choice.token);
  ++r.usage.completion_tokens;
  ++counters.tokens_generated;
  if (!r.timing.first_token) r.timing.first_token = now;
  const auto among = [&](const std::vector<TokenId>& ids) {
    return std::find(ids.begin(), ids.end(), choice.token) != ids.end();
  };
  const bool ends =
      (!r.sampling.ignore_eos && among(r.model->ends)) ||
      among(r.sampling.stop_tokens);
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
  } else if (LeavesShortContext(sequence)) {
    sequence.keys.clear();
    Preempt(sequence);
  }
}

}  // namespace chorale
