// What of its own history a sequence still sees.
//
// A model with a sliding window in every layer never looks at what lies further back. Its sequences
// give such blocks back while they run and get new ones only as they need them: they hold the
// window and a chunk, however long they are.
//
//   blocks   -   -   -   -  [4] [5] [6] [7] [8]  .   .        - hidden   . not yet allocated
//                            |<- window ->|<- next chunk
//
// What is given back stays in the cache while there is room. A prefix is found when those of its
// blocks are there that the next row sees. Requests that write K/V for a worker elsewhere keep all
// of it: they are asked for it.
//
// A model whose rotary frequencies change with the length of a sequence (longrope) has a short
// context. A sequence that outgrows it is computed again, once, with the others.
#include <algorithm>
#include <utility>

#include "engine/state.h"

namespace chorale {

bool Engine::State::ForgetsBlocks(const Sequence& sequence) const {
  return window > 0 && !sequence.request->is_prefill;
}

// The longest prefix that the cache holds, as far as it is seen; a reference to each block.
std::vector<BlockId> Engine::State::AcquireCached(Sequence& sequence) {
  const int full = sequence.goal() / kernels::kBlockTokens;
  if (!sequence.request->reuse_prefix || full == 0) return {};
  KeyOfFull(sequence, full - 1);
  const std::span<const BlockKey> keys = std::span(sequence.keys).first(full);
  if (!ForgetsBlocks(sequence)) return pool.AcquirePrefix(keys);
  // The row behind the prefix is the last of its window.
  return pool.AcquirePrefix(keys, std::max(1, BlocksOf(window - 1)));
}

// How many blocks, hidden ones included, a sequence should have whose first `computed` tokens are
// there: for all its tokens, or for those of the next step.
int Engine::State::BlocksToHold(const Sequence& sequence, int computed) const {
  const int tokens = static_cast<int>(sequence.tokens.size());
  const bool awaits = sequence.request->await_blocks && sequence.index == 0;
  if (!ForgetsBlocks(sequence) || awaits) return BlocksOf(tokens);
  return BlocksOf(std::min(tokens, computed + options.chunk_tokens_max));
}

// Of a sequence that forgets: the blocks of a window and of a chunk, which may begin anywhere in a
// block.
int Engine::State::BlocksHeldMax() const {
  return BlocksOf(window) + 1 + BlocksOf(options.chunk_tokens_max) + 1;
}

int Engine::State::TokensMax() const {
  const int positions = base->config().positions_max;
  if (window > 0 && BlocksHeldMax() <= options.blocks) return positions;
  return static_cast<int>(
      std::min<int64_t>(positions, int64_t{options.blocks} * kernels::kBlockTokens));
}

// Gives back the blocks that no row from the next one on will see. They are full and published.
void Engine::State::ReleaseHidden(Sequence& sequence) {
  if (!ForgetsBlocks(sequence)) return;
  const int first_seen = std::max(0, sequence.computed + 1 - window) / kernels::kBlockTokens;
  for (; sequence.hidden < first_seen; ++sequence.hidden) {
    pool.Release(std::exchange(sequence.blocks[sequence.hidden], kNoBlock));
  }
}

// By the length of the sequence as it is; a prefill request lacks the last token of its prompt.
bool Engine::State::InLongContext(const Sequence& sequence) const {
  const int short_context = base->config().short_context();
  const int tokens =
      static_cast<int>(sequence.tokens.size()) + (sequence.request->is_prefill ? 1 : 0);
  return short_context > 0 && tokens > short_context;
}

// With the token that was added last.
bool Engine::State::LeavesShortContext(const Sequence& sequence) const {
  const int short_context = base->config().short_context();
  return short_context > 0 && static_cast<int>(sequence.tokens.size()) == short_context + 1;
}

}  // namespace chorale
