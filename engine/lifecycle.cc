// The life of a sequence: from the queue into the batch, through its prompt, and out again.
#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "engine/state.h"

namespace chorale {

int BlocksOf(size_t tokens) {
  return static_cast<int>((tokens + kernels::kBlockTokens - 1) / kernels::kBlockTokens);
}

// Puts a new or preempted sequence into the queue. Only now does it get a copy of the prompt.
void Engine::State::Enqueue(Sequence& sequence) {
  if (sequence.tokens.empty()) {
    const Request& r = *sequence.request;
    sequence.tokens = r.prompt;
    if (!r.is_prefill) {
      sequence.sampler.emplace(r.sampling, r.prompt, sequence.index);
      if (tokenizer != nullptr) sequence.text.emplace(*tokenizer, r.sampling.stop, r.prompt);
    }
  }
  sequence.phase = Phase::kWaiting;
  waiting.emplace(sequence.order, &sequence);
}

// How many of these blocks, from the first on, are as they were published; the first that is not is
// found no more.
int Engine::State::CountIntact(std::span<const BlockId> blocks) {
  const auto bad = std::find_if(blocks.begin(), blocks.end(), [&](BlockId block) {
    return block != kNoBlock && Checksum64(BytesOf(block)) != pool.checksum(block);
  });
  if (bad != blocks.end()) {
    ++counters.blocks_corrupt;
    pool.Unpublish(*bad);
  }
  return static_cast<int>(bad - blocks.begin());
}

// From the end: what is released first counts as used least recently.
void Engine::State::ReleaseFrom(std::vector<BlockId>& blocks, int begin) {
  while (static_cast<int>(blocks.size()) > begin) {
    if (blocks.back() != kNoBlock) pool.Release(blocks.back());
    blocks.pop_back();
  }
}

// Adds new blocks up to `total`. False when there are not enough; then all are released.
bool Engine::State::AddBlocks(std::vector<BlockId>& blocks, int total) {
  const auto fresh = pool.Allocate(std::max(0, total - static_cast<int>(blocks.size())));
  if (!fresh.ok()) {
    ReleaseFrom(blocks, 0);
    return false;
  }
  blocks.insert(blocks.end(), fresh->begin(), fresh->end());
  return true;
}

// Gives the sequence its blocks: those found in the cache, and new ones. False, and nothing has
// changed, when there are not enough.
bool Engine::State::Place(Sequence& sequence) {
  Request& r = *sequence.request;
  std::vector<BlockId> blocks;
  int found = 0;
  while (true) {
    blocks = AcquireCached(sequence);
    found = static_cast<int>(blocks.size());
    if (!AddBlocks(blocks, BlocksToHold(sequence, found * kernels::kBlockTokens))) return false;
    // Verified only when there is room: a request that waits is placed again and again. What is bad
    // is not found a second time.
    if (CountIntact(std::span(blocks).first(found)) == found) break;
    ReleaseFrom(blocks, 0);
  }
  sequence.blocks = std::move(blocks);
  sequence.hidden =
      static_cast<int>(std::count(sequence.blocks.begin(), sequence.blocks.end(), kNoBlock));
  sequence.published = found;
  sequence.computed = found * kernels::kBlockTokens;
  CountReuse(sequence);
  if (r.is_prefill && sequence.goal() % kernels::kBlockTokens != 0) {
    // The open block travels whole: nothing of its former tenant may.
    std::ranges::fill(BytesOf(sequence.blocks.back()), std::byte{0});
  }
  waiting.erase(sequence.order);
  running.emplace(sequence.order, &sequence);
  sequence.phase = Phase::kPrefilling;
  if (!r.timing.admitted) {
    r.timing.admitted = now;
    r.usage.cached_tokens = sequence.computed;
  }
  if (sequence.computed == sequence.goal()) {
    EndPrompt(sequence);
  } else if (r.await_blocks && sequence.index == 0) {
    AwaitBlocks(sequence);
  } else if (r.is_prefill && found > 0) {
    ReportPrefill(sequence, /*done=*/false);
  }
  return true;
}

// The K/V before the goal is complete.
void Engine::State::EndPrompt(Sequence& sequence) {
  Request& r = *sequence.request;
  if (!r.timing.prompt_ready) r.timing.prompt_ready = now;
  if (r.is_prefill) {
    sequence.phase = Phase::kHeld;
    running.erase(sequence.order);
    ReportPrefill(sequence, /*done=*/true);
    return;
  }
  sequence.phase = Phase::kDecoding;
  if (sequence.index != 0) return;
  for (const auto& sibling : r.sequences) {
    if (sibling != nullptr && sibling->phase == Phase::kBehindLeader) Enqueue(*sibling);
  }
}

void Engine::State::Publish(Sequence& sequence) {
  const Request& r = *sequence.request;
  const int full = sequence.computed / kernels::kBlockTokens;
  for (int i = sequence.published; i < full; ++i) {
    if (!r.reuse_prefix) break;
    const BlockKey& key = KeyOfFull(sequence, i);
    // Blocks that were delivered were verified then.
    const size_t place = static_cast<size_t>(i - sequence.published);
    std::optional<uint64_t> checksum;
    if (place < sequence.arrived.size()) checksum = sequence.arrived[place].checksum;
    if (!checksum) checksum = Checksum64(BytesOf(sequence.blocks[i]));
    pool.Publish(sequence.blocks[i], key, i == 0 ? BlockKey{} : sequence.keys[i - 1], i, *checksum);
    published_by[sequence.blocks[i]] = IdOf(r.model->name);
  }
  sequence.published = full;
}

void Engine::State::ReportPrefill(const Sequence& sequence, bool done) {
  const int full = sequence.computed / kernels::kBlockTokens;
  Emit(PrefillEvent{.id = sequence.request->id,
                    .blocks_done = done ? BlocksOf(sequence.tokens.size()) : full,
                    .done = done,
                    .status = absl::OkStatus(),
                    .usage = sequence.request->usage});
}

// Blocks, and the place in every queue.
void Engine::State::GiveBack(Sequence& sequence) {
  ReleaseFrom(sequence.blocks, 0);
  sequence.hidden = 0;
  sequence.computed = 0;
  sequence.published = 0;
  StopAwaiting(sequence);
  waiting.erase(sequence.order);
  running.erase(sequence.order);
}

// Back into the queue; what it had computed is computed again, or found in the cache.
void Engine::State::Preempt(Sequence& sequence) {
  GiveBack(sequence);
  Enqueue(sequence);
  ++counters.preemptions;
}

void Engine::State::Finish(Sequence& sequence, FinishReason reason, const absl::Status& status) {
  Request& r = *sequence.request;
  GiveBack(sequence);
  const bool request_done = --r.sequences_live == 0;
  if (r.is_prefill) {
    Emit(PrefillEvent{.id = r.id, .status = status, .usage = r.usage});
  } else {
    FinishEvent event{.id = r.id, .index = sequence.index, .reason = reason, .status = status};
    if (sequence.text) event.text = sequence.text->Finish();
    event.request_done = request_done;
    event.usage = r.usage;
    event.timing = r.timing;
    Emit(std::move(event));
  }
  r.sequences[sequence.index].reset();
  if (!request_done) {
    // A leader that ends before its prompt is written leaves no siblings waiting for it: only a
    // cancellation of the whole request ends it that early.
    return;
  }
  deadlines.erase({r.deadline, r.id});
  requests.erase(r.id);
}

}  // namespace chorale
