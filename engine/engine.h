// Engine: a worker as a state machine.
//
// One thread owns an Engine: it submits requests, calls Step until there is nothing to do, and
// passes on the events. There are no threads, clocks or sockets inside; time is handed to Step, and
// the arithmetic is the model's. The same Engine is a prefill worker, a decode worker, and both.
//
//               Submit                     blocks free               prompt written
//   (refused) <--------> waiting ---------------------> prefilling ------------------> decoding
//                           ^   \--> awaiting blocks --/   (chunks)                    |  |
//                           |        (remote prefill)                      finished <--+  |
//                           +---------- preempted when blocks run out: recomputed --------+
//
// Each step runs one batch under a token budget: first a row for every decoding sequence, then
// chunks of prompts in order of arrival. What runs is modules, not models: rows whose weights are
// the same go through them together, whichever models they belong to. A prompt is written by the
// model's prompt writer up to its last token, what follows by its output writer; a model whose
// predictor is not its writer (icarus) gets a second row for its last token.
//
// Models come and go while requests run: a name means what SetModel last made of it, for requests
// submitted after that. A cancelled or expired request frees all it holds before the next step.
// Tokens do not depend on any of this: with the reference kernels they equal those
// of the request running alone, bit for bit.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cache/block_pool.h"
#include "engine/request.h"
#include "model/module.h"
#include "model/text/tokenizer.h"

namespace chorale {

struct EngineOptions {
  int blocks = 1024;           // of kBlockTokens tokens each
  int step_tokens_max = 256;   // rows of one batch: decode rows + prompt chunks
  int chunk_tokens_max = 128;  // of one prompt in one step
  int sequences_max = 64;      // running at once; at most half of step_tokens_max
  int waiting_max = 256;       // requests queued; more are refused with ResourceExhausted
};

using EngineEvent = std::variant<TokenEvent, FinishEvent, NeedPrefillEvent, PrefillEvent>;

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
  int64_t steps = 0;
  int64_t rows = 0;  // of all steps, readers' included
  int64_t prompt_tokens_computed = 0;
  int64_t prompt_tokens_cached = 0;
  int64_t kv_bytes_shared = 0;  // of blocks reused that another model had written
  int64_t prompt_tokens_received = 0;
  int64_t tokens_generated = 0;
  int64_t preemptions = 0;
  int64_t blocks_rejected = 0;      // delivered blocks whose key or checksum did not match
  int64_t passes = 0;               // forward passes: one a step for each set of base weights in it
  int64_t decode_passes = 0;        // those with decode rows
  int64_t decode_passes_mixed = 0;  // those with decode rows of more than one model
  // By name; also of models that are gone, until there are kModelsCountedMax.
  std::map<std::string, ModelStats> models;
};

class Engine {
 public:
  // `base` gives the shapes that every model shares. `tokenizer` may be null: no text in events,
  // and stop strings are refused. Pool and tokenizer must outlive the engine. CHECKs that the
  // options are positive.
  Engine(const EngineOptions& options, std::shared_ptr<const Transformer> base,
         kernels::ThreadPool& pool, const Tokenizer* tokenizer);
  ~Engine();

  // Serves `model` from now on under its name, in place of what the name meant before. Requests of
  // the former go on, see CancelRetired. CHECKs that the shape is the base's.
  void SetModel(std::shared_ptr<const Model> model);
  // Serves it no longer. NotFound lists the names.
  absl::Status RemoveModel(const std::string& name);
  // How many requests run on a model that its name no longer means.
  int RequestsRetired(const std::string& name) const;
  // Ends them with `why`.
  void CancelRetired(const std::string& name, const absl::Status& why);

  // Queues a request. NotFound: no such model, the message lists those there are. InvalidArgument:
  // an empty prompt, a token outside the vocabulary, a prompt that leaves no room in the context or
  // that the pool could never hold, a bad sampling value. FailedPrecondition: the model's prompt
  // writer is not the one that was asked for. ResourceExhausted: the queue is full. AlreadyExists:
  // the id is in use. A refused request leaves no trace and emits no event.
  absl::Status Submit(GenerateRequest request);
  absl::Status Submit(PrefillRequest request);

  // Ends a request of either kind and frees all it holds; its sequences finish with kCancelled and
  // this status. Unknown or ended ids are ignored: a cancellation may cross the end.
  void Cancel(RequestId id, const absl::Status& why);

  // Hands in one block of a remote_prefill request, its `index` counted from the prompt's start.
  // The bytes are copied. A block that is not of the expected size, key or checksum is counted,
  // dropped and later computed here: InvalidArgument/DataLoss says why. Unknown ids, indices that
  // are not wanted and repeats are ignored.
  absl::Status DeliverBlock(RequestId id, int index, const BlockKey& key, uint64_t checksum,
                            std::span<const std::byte> bytes);
  // No more blocks will come. What is missing is computed here.
  void EndDelivery(RequestId id);

  // The bytes, key and checksum of a written block of a live prefill request; valid until the next
  // call that changes the engine.
  struct BlockView {
    BlockKey key;
    uint64_t checksum = 0;
    std::span<const std::byte> bytes;
  };
  BlockView ReadBlock(RequestId id, int index) const;
  // Drops the blocks of a prefill request whose hand-off is complete. Ignores unknown ids.
  void ReleasePrefill(RequestId id);

  // Expires deadlines, admits, runs one batch, and appends what happened to `events`. `clock` is
  // asked before the batch and after it. False when there was nothing to run.
  bool Step(absl::FunctionRef<absl::Time()> clock, std::vector<EngineEvent>& events);
  // The same at one moment.
  bool Step(absl::Time now, std::vector<EngineEvent>& events) {
    return Step([now] { return now; }, events);
  }

  // How many leading tokens of a prompt have their K/V here already, as `writer` writes it.
  int CachedTokens(std::span<const TokenId> prompt, const Digest& writer,
                   std::string_view tenant_salt) const;
  EngineStats stats() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace chorale
