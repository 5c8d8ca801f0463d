// What a worker is asked to do, and what it tells in return.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/hash.h"
#include "base/token.h"
#include "cache/block_key.h"

namespace chorale {

// Names a request on one worker.
using RequestId = uint64_t;

// How the next token is chosen. The defaults are OpenAI's.
struct SamplingParams {
  double temperature = 1;         // 0: greedy; [0, 100]
  int top_k = 0;                  // 0: all
  double top_p = 1;               // (0, 1]
  double min_p = 0;               // [0, 1]
  double presence_penalty = 0;    // [-2, 2], on tokens of the output
  double frequency_penalty = 0;   // [-2, 2], on tokens of the output
  double repetition_penalty = 1;  // (0, 100], on tokens of prompt and output
  uint64_t seed = 0;              // the caller draws one when the user gave none
  std::vector<std::pair<TokenId, double>> logit_bias;  // added; [-100, 100]
  int max_tokens = 16;  // >= 0 after clamping to the context by the engine
  bool ignore_eos = false;
  std::vector<TokenId> stop_tokens;
  std::vector<std::string> stop;  // the text is cut before the first match
  std::optional<int> logprobs;    // 0..20 alternatives beside the chosen token
};

// InvalidArgument names the field, the value and what is allowed (NaN is never allowed). `vocab` is
// the model's.
absl::Status ValidateSampling(const SamplingParams& params, int vocab);

// Largest n of a request, and largest count of alternatives beside a token.
inline constexpr int kSequencesOfRequestMax = 128;
inline constexpr int kLogprobsMax = 20;

// Generate from a prompt. With n > 1, sequence i draws with its own stream of the seed.
struct GenerateRequest {
  RequestId id = 0;
  std::string model;  // by name, as of the moment of submission
  std::vector<TokenId> prompt;
  SamplingParams sampling;
  int n = 1;
  KeyScope scope;
  bool reuse_prefix = true;   // may read and publish cached blocks
  bool await_blocks = false;  // blocks that are not here are awaited, see NeedBlocksEvent
  absl::Time deadline = absl::InfiniteFuture();
};

// Write the K/V of a prompt with a model's prompt writer, and hold its blocks until the request is
// released. `tokens` is the prompt without its last token: decode begins with that one, and its
// weights write its K/V.
struct PrefillRequest {
  RequestId id = 0;
  std::string model;
  // What the one who asks takes for the model's prompt writer; unset: whatever it is here.
  std::optional<Digest> writer;
  std::vector<TokenId> tokens;
  KeyScope scope;
  bool reuse_prefix = true;
  bool await_blocks = false;
  absl::Time deadline = absl::InfiniteFuture();
};

enum class FinishReason { kStop, kLength, kCancelled, kError };
const char* NameOf(FinishReason reason);  // "stop", "length", "cancelled", "error"

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0;
};

// One new token of one sequence of a request.
struct TokenEvent {
  RequestId id = 0;
  int index = 0;  // which of the n
  TokenId token = 0;
  std::string text;  // whole code points; may be empty, may belong to earlier tokens
  std::optional<float> logprob;
  std::vector<TokenLogprob> top_logprobs;
};

// Counted over a whole request.
struct Usage {
  int prompt_tokens = 0;
  int cached_tokens = 0;       // prompt tokens whose K/V was found, not computed, here
  int transferred_tokens = 0;  // prompt tokens whose K/V came from other workers and stores
  int computed_tokens = 0;     // prompt tokens computed here, again after a preemption too
  int completion_tokens = 0;
};

// When things happened to a request, by the clock that Step is handed; unset: they did not.
struct Timing {
  std::optional<absl::Time> first_step;    // the first Step after it was submitted
  std::optional<absl::Time> admitted;      // blocks were given to its first sequence
  std::optional<absl::Time> prompt_ready;  // the prompt's K/V was complete
  std::optional<absl::Time> first_token;
};

// A sequence has ended; the last event of its (id, index).
struct FinishEvent {
  RequestId id = 0;
  int index = 0;
  FinishReason reason = FinishReason::kStop;
  absl::Status status;        // why, for kError; kCancelled and deadlines carry theirs too
  std::string text;           // what was held back for a stop string or an open code point
  bool request_done = false;  // no sequence of the request is left
  Usage usage;                // valid when request_done
  Timing timing;              // likewise
};

// A request that awaits blocks has room for the blocks [first_block, blocks) of its prompt, whose
// keys these are; what lies before was found here. The last block may be open: not full, of the
// prompt's last tokens.
struct NeedBlocksEvent {
  RequestId id = 0;
  uint64_t epoch = 0;  // of the delivery that it asks for
  Digest writer;       // the model's prompt writer
  int first_block = 0;
  int blocks = 0;
  int tokens = 0;               // of the prompt that are to be written, in all
  std::vector<BlockKey> keys;   // of [first_block, blocks)
};

// The batch under way has written layers [0, layers) of the blocks [first_block, blocks) of a prefill
// request, so that they can be sent before the others are. Told while the batch runs.
struct LayersEvent {
  RequestId id = 0;
  int first_block = 0;
  int blocks = 0;
  int layers = 0;
};

// Nothing is lent any more: everything was returned, or the reader was silent for too long.
struct LoanEndedEvent {
  RequestId id = 0;
  bool expired = false;
};

// Blocks [0, blocks_done) of a prefill request are written; `done` when all are. Emitted on each
// change, and once at admission when a prefix was found.
struct PrefillEvent {
  RequestId id = 0;
  int blocks_done = 0;
  bool done = false;
  absl::Status status;  // not OK: ended without result, nothing is held any more
  Usage usage;
};

}  // namespace chorale
