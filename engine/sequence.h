// What the engine keeps of a request and its sequences.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/checked_copy.h"
#include "cache/block_pool.h"
#include "cache/handoff.h"
#include "engine/request.h"
#include "engine/sampler.h"
#include "engine/text_stream.h"
#include "model/module.h"

namespace chorale {

enum class Phase {
  kBehindLeader,    // of n > 1: waits until the first sequence has written the prompt
  kWaiting,         // for blocks and a place in the batch
  kAwaitingBlocks,  // the prompt's K/V is on its way from a prefill worker
  kPrefilling,      // tokens before `goal` are computed in chunks
  kDecoding,        // one row a step
  kHeld,            // a prefill request, all written
};

// What has come of a block that is awaited.
struct Arrival {
  size_t bytes = 0;
  CheckedCopy copy;
  std::optional<uint64_t> checksum;  // of the block in the pool, once it is verified
};

struct Request;

// One continuation of a prompt; a prefill request has one too, which never decodes.
struct Sequence {
  Request* request = nullptr;
  int index = 0;
  uint64_t order = 0;  // of arrival, unique
  Phase phase = Phase::kBehindLeader;
  std::vector<TokenId> tokens;  // prompt and output; empty before the first place in the queue
  int computed = 0;             // leading tokens whose K/V is in `blocks`
  std::vector<BlockId> blocks;  // those that no layer will look at again are kNoBlock
  int hidden = 0;               // leading blocks that are kNoBlock
  std::vector<BlockKey> keys;   // of full blocks of `tokens`, as far as they were needed
  int published = 0;            // leading blocks that were offered to the prefix index
  // While awaiting blocks: the hand-off, and each block behind the published ones.
  std::optional<HandoffTicket> ticket;
  std::vector<Arrival> arrived;
  std::optional<Sampler> sampler;
  std::optional<TextStream> text;  // absent without a tokenizer

  // Tokens whose K/V must be there before the next phase: decoding begins with the last token.
  int goal() const;
  // How many of `tokens` the model's prompt writer writes; its output writer writes the others.
  int boundary() const;
};

// The requests of both kinds.
struct Request {
  RequestId id = 0;
  bool is_prefill = false;
  std::vector<TokenId> prompt;
  std::shared_ptr<const Model> model;
  KeyScope scope;
  bool reuse_prefix = true;
  bool await_blocks = false;  // until they were delivered
  absl::Time deadline = absl::InfiniteFuture();
  SamplingParams sampling;
  std::vector<std::unique_ptr<Sequence>> sequences;  // reset to null when they end
  int sequences_live = 0;
  Usage usage;
  Timing timing;
};

inline int Sequence::boundary() const {
  return static_cast<int>(request->prompt.size()) - (request->is_prefill ? 0 : 1);
}

inline int Sequence::goal() const {
  return static_cast<int>(tokens.size()) - (request->is_prefill ? 0 : 1);
}

}  // namespace chorale
