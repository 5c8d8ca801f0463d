// The inside of an Engine: the queues, and the parts of a step.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "cache/handoff_receiver.h"
#include "cache/handoff_sender.h"
#include "engine/engine.h"
#include "engine/sequence.h"
#include "model/forward.h"

namespace chorale {

struct Engine::State {
  State(const EngineOptions& options, std::shared_ptr<const Transformer> base,
        kernels::ThreadPool& threads, const Tokenizer* tokenizer);

  // Models: models.cc.
  absl::StatusOr<std::shared_ptr<const Model>> FindModel(const std::string& name) const;
  bool IsRetired(const Request& request) const;
  int IdOf(const std::string& name);
  void CountReuse(const Sequence& sequence);
  void CountPass(size_t begin, size_t end);

  // Requests: engine.cc.
  absl::Status CheckPrompt(RequestId id, std::span<const TokenId> prompt, int room) const;
  void Add(std::unique_ptr<Request> request, int sequences);
  void CancelRequest(Request& request, FinishReason reason, const absl::Status& why);
  Request* Find(RequestId id);
  Digest WriterOf(const Sequence& sequence, int begin, int end) const;
  const BlockKey& KeyOfFull(Sequence& sequence, int block);
  // Of a block of the tokens before the goal; the last one may be open.
  BlockKey KeyOfPrompt(Sequence& sequence, int block);

  // What of a sequence its model still sees: horizon.cc.
  bool ForgetsBlocks(const Sequence& sequence) const;
  std::vector<BlockId> AcquireCached(Sequence& sequence);
  int BlocksToHold(const Sequence& sequence, int computed) const;
  int BlocksHeldMax() const;
  int TokensMax() const;
  void ReleaseHidden(Sequence& sequence);
  bool InLongContext(const Sequence& sequence) const;
  bool LeavesShortContext(const Sequence& sequence) const;

  // The life of a sequence: lifecycle.cc.
  void Enqueue(Sequence& sequence);
  int CountIntact(std::span<const BlockId> blocks);
  void ReleaseFrom(std::vector<BlockId>& blocks, int begin);
  bool AddBlocks(std::vector<BlockId>& blocks, int total);
  bool Place(Sequence& sequence);
  void EndPrompt(Sequence& sequence);
  void Publish(Sequence& sequence);
  void ReportPrefill(const Sequence& sequence, bool done);
  void GiveBack(Sequence& sequence);
  void Preempt(Sequence& sequence);
  void Finish(Sequence& sequence, FinishReason reason, const absl::Status& status);
  void Emit(EngineEvent event) { events.push_back(std::move(event)); }

  // Blocks that come and go: transfer.cc.
  // The only sequence of a request that awaits blocks; null when there is none.
  Sequence* FindAwaiting(RequestId id);
  Sequence* FindWanting(RequestId id, uint64_t epoch, int index);
  bool IsPacked(size_t bytes) const;
  void AwaitBlocks(Sequence& sequence);
  NeedBlocksEvent Needed(Sequence& sequence);
  void StopAwaiting(Sequence& sequence);
  BlockView ViewOf(BlockId block, const BlockKey& key);
  // Takes over a reference of `block`; returns its place in the loan.
  absl::StatusOr<int> LendBlock(RequestId loan, BlockId block, const BlockKey& key,
                                uint64_t checksum);
  void ExpireLoans();
  std::span<std::byte> BytesOf(BlockId block) {
    return memory.subspan(block * shape.block_bytes(), shape.block_bytes());
  }
  size_t Bytes() const { return static_cast<size_t>(shape.block_bytes()) * options.blocks; }

  // A step: step.cc.
  bool Step(absl::FunctionRef<absl::Time()> clock);
  void Expire();
  bool MakeRoom();
  bool PreemptYoungest();
  void Admit();
  void BuildBatch();
  struct BatchEntry;
  BatchSequence RowsOf(const BatchEntry& entry) const;
  void RunBatch();
  void TellLayers(size_t begin, size_t end, int layers);
  void NotePace(absl::Duration took);
  void Advance(Sequence& sequence, int rows, std::span<float> logits);
  void TakeToken(Sequence& sequence, std::span<float> logits);

  const EngineOptions options;
  const std::shared_ptr<const Transformer> base;
  const Tokenizer* const tokenizer;
  const kernels::KvShape shape;
  const int window;  // tokens further back are seen by no layer; 0: there is no such bound
  kernels::Buffer own_memory;
  const std::span<std::byte> memory;
  kernels::KvMemory kv;
  BlockPool pool;
  // Blocks that others read, and blocks that are awaited. Ids of loans and numbers of transfers are
  // never used again within one engine, and nobody else hears of them: no incarnation is needed.
  HandoffSender sender;
  HandoffReceiver receiver{0};
  struct Lent {
    BlockId block;
    BlockKey key;
    uint64_t checksum;
  };
  struct Loan {
    HandoffTicket ticket;
    std::vector<Lent> blocks;  // by place
    int held = 0;              // of these
  };
  std::map<RequestId, Loan> loans;
  std::vector<int> published_by;  // IdOf the model whose request published a block
  absl::flat_hash_map<std::string, int> name_ids;
  ForwardPass forward;
  std::map<std::string, std::shared_ptr<const Model>> models;

  absl::flat_hash_map<RequestId, std::unique_ptr<Request>> requests;
  std::set<std::pair<absl::Time, RequestId>> deadlines;
  std::vector<RequestId> not_stepped;  // submitted since the last step
  // By order of arrival. A running sequence holds blocks and a place in the batch.
  std::map<uint64_t, Sequence*> waiting;
  std::map<uint64_t, Sequence*> running;
  uint64_t orders = 0;
  absl::Time now = absl::InfinitePast();

  struct BatchEntry {
    Sequence* sequence = nullptr;
    int rows = 0;
    const Module* writer = nullptr;
  };
  std::vector<BatchEntry> batch;
  std::vector<BatchSequence> model_batch;
  std::vector<float> logits;
  std::vector<EngineEvent> events;  // since the last step
  std::function<void(const LayersEvent&)> on_layers;
  double prompt_token_us = 0;
  EngineStats counters;  // only those that grow
};

// How many blocks hold so many tokens.
int BlocksOf(size_t tokens);

}  // namespace chorale
