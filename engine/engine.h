// Engine: a worker as a state machine.
//
// One thread owns an Engine: it submits requests, calls Step until there is nothing to do, and
// passes on the events. There are no threads, clocks or sockets inside; time is handed to Step, and
// the arithmetic is the model's. The same Engine is a prefill worker, a decode worker, and both.
//
//               Submit                     blocks free               prompt written
//   (refused) <--------> waiting ---------------------> prefilling ------------------> decoding
//                           ^   \--> awaiting blocks --/   (chunks)                    |  |
//                           |         (from elsewhere)                     finished <--+  |
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
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "cache/block_pool.h"
#include "engine/request.h"
#include "engine/stats.h"
#include "model/module.h"
#include "text/tokenizer.h"

namespace chorale {

struct EngineOptions {
  int blocks = 1024;           // of kBlockTokens tokens each
  int step_tokens_max = 256;   // rows of one batch: decode rows + prompt chunks
  int chunk_tokens_max = 128;  // of one prompt in one step
  int sequences_max = 64;      // running at once; at most half of step_tokens_max
  int waiting_max = 256;       // requests queued; more are refused with ResourceExhausted
  absl::Duration lease = absl::Seconds(5);  // of a loan whose reader is silent
  // Where the blocks lie, aligned to 64 bytes, outliving the engine; empty: the engine's own
  // memory.
  std::span<std::byte> memory = {};
};

using EngineEvent = std::variant<TokenEvent, FinishEvent, NeedBlocksEvent, LayersEvent,
                                 PrefillEvent, LoanEndedEvent>;

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

  // ---- Blocks that arrive, for a request that awaits them (NeedBlocksEvent): transfer.cc ----
  // A request is delivered to by one source after another; a delivery's number is its epoch, and
  // what a former source still says is ignored, as is what is not wanted, repeated, or of an ended
  // request.

  // Copies a piece of a block, its `index` counted from the prompt's start, into the room that is
  // reserved for it. The pieces of one block come in order.
  void DeliverPiece(RequestId id, uint64_t epoch, int index, std::span<const std::byte> piece);
  // All pieces of the block have come; of K/V that is rounded to 8 bits, maybe in its packed form,
  // which the checksum is of then. One that is not of the expected size, key or checksum is
  // counted, dropped and later computed here or delivered by another source: InvalidArgument or
  // DataLoss says why.
  absl::Status CompleteBlock(RequestId id, uint64_t epoch, int index, const BlockKey& key,
                             uint64_t checksum);
  // Another source delivers from now on: what is still missing behind the leading blocks that have
  // come. Nothing when the request awaits none.
  std::optional<NeedBlocksEvent> NextDelivery(RequestId id);
  // No more blocks will come. What is missing is computed here.
  void EndDelivery(RequestId id);

  // ---- Blocks that others read: transfer.cc ----
  // The bytes, key and checksum of a block; valid until the next call that changes the engine.
  struct BlockView {
    BlockKey key;
    uint64_t checksum = 0;
    std::span<const std::byte> bytes;
    int64_t offset = 0;  // of the bytes in the engine's memory
  };
  // Of a written block of a live prefill request.
  BlockView ReadBlock(RequestId id, int index) const;
  // What layers [0, layers) of a block of a live prefill request hold; they must be written.
  std::span<const std::byte> ReadLayers(RequestId id, int index, int layers) const;
  // Drops the blocks of a prefill request whose hand-off is complete. Ignores unknown ids.
  void ReleasePrefill(RequestId id);

  // A loan holds blocks for a reader elsewhere. It ends when all are returned, by EndLoan, or when
  // nothing was asked or returned for the length of a lease (EngineOptions); LoanEndedEvent tells.
  //
  // Lends the block with this key; returns its place in the loan, nothing when it is not here.
  // ResourceExhausted: too much is lent already.
  absl::StatusOr<std::optional<int>> Lend(RequestId loan, const BlockKey& key);
  // Lends a written block of a prefill request, so that it may outlive the request; returns its
  // place. NotFound: the request has ended.
  absl::StatusOr<int> LendWritten(RequestId loan, RequestId prefill, int index);
  // The block at a place of a loan, its checksum as of when it was lent; nothing when it is not
  // lent any more.
  std::optional<BlockView> ReadLent(RequestId loan, int place);
  void ReturnLent(RequestId loan, int place);
  // Between the two the bytes at `offset`, of a block that is lent now, stay what they are,
  // whatever becomes of the loan: somebody here still reads them.
  void PinBytes(int64_t offset);
  void UnpinBytes(int64_t offset);
  // Nothing more will be lent: the loan ends when the last block is returned.
  void FinishLoan(RequestId loan);
  void EndLoan(RequestId loan);

  std::vector<PublishedBlock> ListBlocks() const;
  // The block with this key, if it is here.
  std::optional<BlockView> FindBlock(const BlockKey& key);
  // How many leading keys are here.
  int MatchPrefix(std::span<const BlockKey> keys) const;
  // Compares those of `count` blocks from the `begin`-th on that are published with their
  // checksums; bad ones are dropped.
  struct Verified {
    int read = 0;
    int bad = 0;  // of these
  };
  Verified VerifyBlocks(int begin, int count);
  // Drops findable blocks that nobody holds and whose key begins with `prefix`, in hexadecimal.
  int EvictBlocks(std::string_view prefix);
  // From now on the engine remembers which blocks become findable or cease to be, those that are
  // findable already first; TakeBlockEvents has to be called now and then.
  void RecordBlockEvents();
  std::vector<BlockEvent> TakeBlockEvents();

  // Time goes on between steps too: what is lent next is lent from `now` on.
  void Advance(absl::Time now);

  // Who hears of layers while a batch runs (LayersEvent); may read the engine, nothing else.
  void OnLayers(std::function<void(const LayersEvent&)> listener);

  // Expires deadlines, admits, runs one batch, and appends what happened to `events`. `clock` is
  // asked before the batch and after it. False when there was nothing to run.
  bool Step(absl::FunctionRef<absl::Time()> clock, std::vector<EngineEvent>& events);
  // The same at one moment.
  bool Step(absl::Time now, std::vector<EngineEvent>& events) {
    return Step([now] { return now; }, events);
  }

  // How many leading tokens of a prompt have their K/V here already, as `writer` writes it.
  int CachedTokens(std::span<const TokenId> prompt, const Digest& writer,
                   const KeyScope& scope) const;
  // How many tokens a request may have, prompt and output: the model's context, or what the blocks
  // hold when that is less. Of a model with a sliding window in every layer they hold any number.
  int tokens_max() const;
  EngineStats stats() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace chorale
