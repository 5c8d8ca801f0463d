// What an engine counts.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace chorale {

// What one model did; counters only grow. A prompt's token is computed, or reused from blocks that
// this model or another one had written here, or received from a prefill worker; after a preemption
// it is counted once more, and generated tokens with it.
struct ModelStats {
  int64_t prompt_tokens_computed = 0;
  int64_t prompt_tokens_reused_own = 0;
  int64_t prompt_tokens_reused_shared = 0;
  int64_t prompt_tokens_received = 0;
  int64_t decode_rows = 0;  // of all steps; a reader and its writer are one
};

inline constexpr size_t kModelsCountedMax = 1024;

// What an operator wants to see; counters only grow.
struct EngineStats {
  int waiting = 0;
  int prefilling = 0;
  int decoding = 0;
  int awaiting_blocks = 0;
  int blocks_total = 0;
  int blocks_free = 0;  // free or cached: what a new request could have
  int blocks_held = 0;
  int blocks_cached = 0;
  int blocks_on_loan = 0;  // references that readers elsewhere hold
  int loans = 0;
  double prompt_token_us = 0;  // time to compute a token of a prompt, of late; 0: not known
  int64_t steps = 0;
  int64_t rows = 0;  // of all steps, readers' included
  int64_t prompt_tokens_computed = 0;
  int64_t prompt_tokens_cached = 0;
  int64_t kv_bytes_shared = 0;  // of blocks reused that another model had written
  int64_t prompt_tokens_received = 0;
  int64_t tokens_generated = 0;
  int64_t preemptions = 0;
  int64_t blocks_rejected = 0;      // delivered blocks whose key or checksum did not match
  int64_t blocks_corrupt = 0;       // of the cache, whose bytes had changed; computed again
  int64_t blocks_lent = 0;          // to readers elsewhere
  int64_t leases_expired = 0;
  int64_t passes = 0;               // forward passes: one a step for each set of base weights in it
  int64_t decode_passes = 0;        // those with decode rows
  int64_t decode_passes_mixed = 0;  // those with decode rows of more than one model
  // By name; also of models that are gone, until there are kModelsCountedMax.
  std::map<std::string, ModelStats> models;
};

}  // namespace chorale
