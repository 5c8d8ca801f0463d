#include "engine/engine.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/state.h"

namespace chorale {
namespace {

constexpr int kLoansMax = 4096;

EngineOptions Checked(EngineOptions options) {
  CHECK_GE(options.blocks, 1);
  CHECK_GE(options.step_tokens_max, 1);
  CHECK_GE(options.chunk_tokens_max, 1);
  CHECK_GE(options.sequences_max, 1);
  CHECK_GE(options.waiting_max, 1);
  // Every running sequence must find its rows in each step, two if its model has a reader.
  options.sequences_max = std::clamp(options.step_tokens_max / 2, 1, options.sequences_max);
  return options;
}

}  // namespace

Engine::State::State(const EngineOptions& options, std::shared_ptr<const Transformer> base,
                     kernels::ThreadPool& threads, const Tokenizer* tokenizer)
    : options(Checked(options)),
      base(std::move(base)),
      tokenizer(tokenizer),
      shape(this->base->kv_shape()),
      window(this->base->config().window.of_all_layers()),
      own_memory(options.memory.empty() ? Bytes() : 0),
      memory(options.memory.empty() ? std::span(own_memory.data(), own_memory.bytes())
                                    : options.memory),
      kv{.data = memory.data(), .shape = shape},
      pool(options.blocks),
      sender({.lease = options.lease,
              .blocks_held_max = std::max(1, options.blocks / 2),
              .transfers_max = kLoansMax},
             [this](HandoffBlock block) { pool.Release(static_cast<BlockId>(block)); }),
      published_by(options.blocks),
      forward(threads) {
  CHECK_GE(memory.size(), Bytes());
}

Engine::Engine(const EngineOptions& options, std::shared_ptr<const Transformer> base,
               kernels::ThreadPool& pool, const Tokenizer* tokenizer)
    : state_(std::make_unique<State>(options, std::move(base), pool, tokenizer)) {}
Engine::~Engine() = default;

// `room`: how many tokens the request may have in all.
absl::Status Engine::State::CheckPrompt(RequestId id, std::span<const TokenId> prompt,
                                        int room) const {
  if (requests.contains(id)) {
    return absl::AlreadyExistsError(absl::StrFormat("request id %d is in use", id));
  }
  if (static_cast<int>(waiting.size()) >= options.waiting_max) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%d requests are waiting already; try again later", waiting.size()));
  }
  if (prompt.empty()) {
    return absl::InvalidArgumentError("field 'prompt': empty; give at least one token");
  }
  if (prompt.size() > static_cast<size_t>(room)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'prompt': %d tokens do not fit: the context of this model ends at %d tokens and the "
        "worker's blocks hold %d; shorten the prompt to %d tokens",
        prompt.size(), base->config().positions_max, options.blocks * kernels::kBlockTokens, room));
  }
  for (size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i] < 0 || prompt[i] >= base->config().vocab) {
      return absl::InvalidArgumentError(
          absl::StrFormat("field 'prompt': token %d at position %d is not within the vocabulary "
                          "[0, %d]",
                          prompt[i], i, base->config().vocab - 1));
    }
  }
  return absl::OkStatus();
}

void Engine::State::Add(std::unique_ptr<Request> request, int sequences) {
  Request& r = *request;
  r.usage.prompt_tokens = static_cast<int>(r.prompt.size());
  r.sequences_live = sequences;
  for (int i = 0; i < sequences; ++i) {
    auto sequence = std::make_unique<Sequence>();
    sequence->request = &r;
    sequence->index = i;
    sequence->order = orders++;
    r.sequences.push_back(std::move(sequence));
  }
  if (r.deadline != absl::InfiniteFuture()) deadlines.emplace(r.deadline, r.id);
  not_stepped.push_back(r.id);
  requests.emplace(r.id, std::move(request));
  if (!r.is_prefill && r.sampling.max_tokens == 0) {
    for (int i = 0; i < sequences; ++i) {
      Finish(*r.sequences[i], FinishReason::kLength, absl::OkStatus());
    }
    return;
  }
  Enqueue(*r.sequences[0]);
}

absl::Status Engine::Submit(GenerateRequest request) {
  ASSIGN_OR_RETURN(auto model, state_->FindModel(request.model));
  const int tokens_max = state_->TokensMax();
  RETURN_IF_ERROR(state_->CheckPrompt(request.id, request.prompt, tokens_max - 1));
  RETURN_IF_ERROR(ValidateSampling(request.sampling, state_->base->config().vocab));
  if (request.n < 1 || request.n > kSequencesOfRequestMax) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'n': %d is not within [1, %d]", request.n, kSequencesOfRequestMax));
  }
  if (state_->tokenizer == nullptr && !request.sampling.stop.empty()) {
    return absl::InvalidArgumentError(
        "field 'stop': this model has no tokenizer; use stop_token_ids");
  }
  auto r = std::make_unique<Request>();
  r->id = request.id;
  r->prompt = std::move(request.prompt);
  r->model = std::move(model);
  r->scope = std::move(request.scope);
  r->reuse_prefix = request.reuse_prefix;
  // What is awaited has room from the start; where that is more than there is, it is computed.
  r->await_blocks = request.await_blocks && BlocksOf(r->prompt.size()) <= state_->options.blocks;
  r->deadline = request.deadline;
  r->sampling = std::move(request.sampling);
  r->sampling.max_tokens =
      std::min(r->sampling.max_tokens, tokens_max - static_cast<int>(r->prompt.size()));
  state_->Add(std::move(r), request.n);
  return absl::OkStatus();
}

absl::Status Engine::Submit(PrefillRequest request) {
  ASSIGN_OR_RETURN(auto model, state_->FindModel(request.model));
  if (const Digest& writer = model->prompt_writer.digest();
      request.writer && *request.writer != writer) {
    return absl::FailedPreconditionError(
        absl::StrFormat("model '%s': prompts are written by weights %s here, %s were asked for",
                        request.model, writer.Short(), request.writer->Short()));
  }
  const int positions = state_->base->config().positions_max;
  const int64_t slots = int64_t{state_->options.blocks} * kernels::kBlockTokens;
  RETURN_IF_ERROR(state_->CheckPrompt(request.id, request.tokens,
                                      static_cast<int>(std::min<int64_t>(positions, slots))));
  auto r = std::make_unique<Request>();
  r->id = request.id;
  r->is_prefill = true;
  r->prompt = std::move(request.tokens);
  r->model = std::move(model);
  r->scope = std::move(request.scope);
  r->reuse_prefix = request.reuse_prefix;
  r->await_blocks = request.await_blocks;
  r->deadline = request.deadline;
  state_->Add(std::move(r), 1);
  return absl::OkStatus();
}

Request* Engine::State::Find(RequestId id) {
  const auto it = requests.find(id);
  return it == requests.end() ? nullptr : it->second.get();
}

void Engine::Cancel(RequestId id, const absl::Status& why) {
  Request* request = state_->Find(id);
  if (request != nullptr) state_->CancelRequest(*request, FinishReason::kCancelled, why);
}

// Ends every sequence that still lives; the request is gone afterwards.
void Engine::State::CancelRequest(Request& request, FinishReason reason, const absl::Status& why) {
  std::vector<Sequence*> live;
  for (const auto& sequence : request.sequences) {
    if (sequence != nullptr) live.push_back(sequence.get());
  }
  for (Sequence* sequence : live) Finish(*sequence, reason, why);
}

// Who writes the tokens [begin, end), which lie in one block.
Digest Engine::State::WriterOf(const Sequence& sequence, int begin, int end) const {
  const auto writer = [&](const Module& module) {
    return InLongContext(sequence) ? WriterOfLongContext(module.digest()) : module.digest();
  };
  const Digest prompt = writer(sequence.request->model->prompt_writer);
  const Digest output = writer(sequence.request->model->output_writer);
  const int boundary = sequence.boundary();
  if (end <= boundary || prompt == output) return prompt;
  if (begin >= boundary) return output;
  return WriterOfMixedBlock(prompt, boundary - begin, output);
}

const BlockKey& Engine::State::KeyOfFull(Sequence& sequence, int block) {
  CHECK_LE(static_cast<size_t>(block + 1) * kernels::kBlockTokens, sequence.tokens.size());
  while (static_cast<int>(sequence.keys.size()) <= block) {
    const int begin = static_cast<int>(sequence.keys.size()) * kernels::kBlockTokens;
    sequence.keys.push_back(
        MakeBlockKey(begin == 0 ? BlockKey{} : sequence.keys.back(),
                     std::span(sequence.tokens).subspan(begin, kernels::kBlockTokens),
                     WriterOf(sequence, begin, begin + kernels::kBlockTokens),
                     sequence.request->scope.SaltOf(begin + kernels::kBlockTokens)));
  }
  return sequence.keys[block];
}

BlockKey Engine::State::KeyOfPrompt(Sequence& sequence, int block) {
  const int begin = block * kernels::kBlockTokens;
  if (begin + kernels::kBlockTokens <= sequence.goal()) return KeyOfFull(sequence, block);
  const BlockKey parent = block == 0 ? BlockKey{} : KeyOfFull(sequence, block - 1);
  return MakeBlockKey(parent, std::span(sequence.tokens).subspan(begin, sequence.goal() - begin),
                      WriterOf(sequence, begin, sequence.goal()),
                      sequence.request->scope.SaltOf(sequence.goal()));
}

void Engine::Advance(absl::Time now) { state_->now = std::max(state_->now, now); }

int Engine::tokens_max() const { return state_->TokensMax(); }

bool Engine::Step(absl::FunctionRef<absl::Time()> clock, std::vector<EngineEvent>& events) {
  const bool ran = state_->Step(clock);
  std::move(state_->events.begin(), state_->events.end(), std::back_inserter(events));
  state_->events.clear();
  return ran;
}

int Engine::CachedTokens(std::span<const TokenId> prompt, const Digest& writer,
                         const KeyScope& scope) const {
  if (prompt.empty()) return 0;
  const size_t full = (prompt.size() - 1) / kernels::kBlockTokens * kernels::kBlockTokens;
  return state_->pool.MatchPrefix(MakeBlockKeys(prompt.first(full), writer, scope)) *
         kernels::kBlockTokens;
}

EngineStats Engine::stats() const {
  EngineStats stats = state_->counters;
  stats.waiting = static_cast<int>(state_->waiting.size());
  for (const auto& [order, sequence] : state_->running) {
    stats.prefilling += sequence->phase == Phase::kPrefilling;
    stats.decoding += sequence->phase == Phase::kDecoding;
    stats.awaiting_blocks += sequence->phase == Phase::kAwaitingBlocks;
  }
  stats.blocks_on_loan = static_cast<int>(state_->sender.blocks_held());
  stats.loans = static_cast<int>(state_->loans.size());
  stats.prompt_token_us = state_->prompt_token_us;
  stats.blocks_total = state_->pool.blocks_total();
  stats.blocks_free = state_->pool.blocks_available();
  stats.blocks_held = state_->pool.blocks_held();
  stats.blocks_cached = state_->pool.blocks_cached();
  return stats;
}

}  // namespace chorale
