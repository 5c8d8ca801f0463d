// Blocks that come from elsewhere, and blocks that are read from elsewhere.
#include <algorithm>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/state.h"
#include "kernels/formats/kv_codec.h"

namespace chorale {

Sequence* Engine::State::FindAwaiting(RequestId id) {
  Request* request = Find(id);
  if (request == nullptr || request->sequences[0] == nullptr) return nullptr;
  Sequence* leader = request->sequences[0].get();
  return leader->phase == Phase::kAwaitingBlocks ? leader : nullptr;
}

// Whether so many bytes are a block in the packed form of rounded K/V (kernels/kv_codec.h).
bool Engine::State::IsPacked(size_t bytes) const {
  return base->kv_int8() && bytes == static_cast<size_t>(kernels::PackedBytes(shape));
}

// ---- Arriving ----

void Engine::State::AwaitBlocks(Sequence& sequence) {
  sequence.phase = Phase::kAwaitingBlocks;
  std::vector<BlockKey> keys;
  for (int i = sequence.published; i < BlocksOf(sequence.goal()); ++i) {
    keys.push_back(KeyOfPrompt(sequence, i));
  }
  sequence.arrived = std::vector<Arrival>(keys.size());
  sequence.ticket = receiver.Open(std::move(keys), absl::InfiniteFuture());
  Emit(Needed(sequence));
}

void Engine::State::StopAwaiting(Sequence& sequence) {
  if (!sequence.ticket) return;
  receiver.Close(sequence.ticket->transfer);
  sequence.ticket.reset();
  sequence.arrived.clear();
}

// What the next delivery is to bring.
NeedBlocksEvent Engine::State::Needed(Sequence& sequence) {
  const int first = sequence.published + receiver.leading(sequence.ticket->transfer);
  NeedBlocksEvent event{.id = sequence.request->id,
                        .epoch = sequence.ticket->epoch,
                        .writer = sequence.request->model->prompt_writer.digest(),
                        .first_block = first,
                        .blocks = BlocksOf(sequence.goal()),
                        .tokens = sequence.goal()};
  for (int i = first; i < event.blocks; ++i) event.keys.push_back(KeyOfPrompt(sequence, i));
  return event;
}

// The awaiting sequence of request `id`, when its delivery `epoch` may still bring block `index`.
Sequence* Engine::State::FindWanting(RequestId id, uint64_t epoch, int index) {
  Sequence* sequence = FindAwaiting(id);
  if (sequence == nullptr || epoch != sequence->ticket->epoch) return nullptr;
  const int place = index - sequence->published;
  const auto keys = receiver.keys(sequence->ticket->transfer);
  if (place < 0 || place >= static_cast<int>(keys.size())) return nullptr;
  const HandoffVerdict verdict = receiver.Check(*sequence->ticket, place, keys[place]);
  return verdict == HandoffVerdict::kWanted ? sequence : nullptr;
}

void Engine::DeliverPiece(RequestId id, uint64_t epoch, int index,
                          std::span<const std::byte> piece) {
  Sequence* sequence = state_->FindWanting(id, epoch, index);
  if (sequence == nullptr) return;
  const std::span<std::byte> room = state_->BytesOf(sequence->blocks[index]);
  Arrival& arrived = sequence->arrived[index - sequence->published];
  // Too much is noted by size alone: CompleteBlock refuses it.
  if (arrived.bytes <= room.size() && piece.size() <= room.size() - arrived.bytes) {
    arrived.copy.Append(room.data() + arrived.bytes, piece);
  }
  arrived.bytes += piece.size();
}

absl::Status Engine::CompleteBlock(RequestId id, uint64_t epoch, int index, const BlockKey& key,
                                   uint64_t checksum) {
  Sequence* sequence = state_->FindWanting(id, epoch, index);
  if (sequence == nullptr) return absl::OkStatus();
  const int place = index - sequence->published;
  const std::span<std::byte> room = state_->BytesOf(sequence->blocks[index]);
  const size_t arrived = std::exchange(sequence->arrived[place].bytes, 0);
  const uint64_t checksum_here = sequence->arrived[place].copy.Finish();
  absl::Status status;
  std::vector<std::byte> packed;
  if (state_->IsPacked(arrived)) {
    packed.assign(room.begin(), room.begin() + static_cast<ptrdiff_t>(arrived));
    status = kernels::UnpackBlock(state_->shape, packed, room);
  } else if (arrived != room.size()) {
    status = absl::InvalidArgumentError(
        absl::StrFormat("block %d has %d bytes, expected %d: the sender serves another model or "
                        "dtype",
                        index, arrived, room.size()));
  }
  if (status.ok()) {
    const HandoffVerdict verdict =
        state_->receiver.Accept(*sequence->ticket, place, key, checksum, checksum_here);
    if (verdict == HandoffVerdict::kTaken) {
      if (packed.empty()) sequence->arrived[place].checksum = checksum;
      return absl::OkStatus();
    }
    if (verdict == HandoffVerdict::kWrongKey) {
      status = absl::InvalidArgumentError(
          absl::StrFormat("block %d has key %s, expected %s: other weights, tokens or tenant",
                          index, key.ToHex(), state_->KeyOfPrompt(*sequence, index).ToHex()));
    } else {
      status = absl::DataLossError(absl::StrFormat("block %d does not match its checksum", index));
    }
  }
  ++state_->counters.blocks_rejected;
  return status;
}

std::optional<NeedBlocksEvent> Engine::NextDelivery(RequestId id) {
  Sequence* sequence = state_->FindAwaiting(id);
  if (sequence == nullptr) return std::nullopt;
  absl::StatusOr<HandoffTicket> next = state_->receiver.Restart(*sequence->ticket);
  CHECK(next.ok()) << next.status();
  sequence->ticket = *next;
  for (Arrival& arrival : sequence->arrived) {
    if (!arrival.checksum) arrival = {};  // what came in part begins anew
  }
  return state_->Needed(*sequence);
}

void Engine::EndDelivery(RequestId id) {
  Sequence* sequence = state_->FindAwaiting(id);
  if (sequence == nullptr) return;
  Request& r = *sequence->request;
  const int blocks = sequence->published + state_->receiver.leading(sequence->ticket->transfer);
  const int computed = std::min(blocks * kernels::kBlockTokens, sequence->goal());
  r.usage.transferred_tokens += computed - sequence->computed;
  state_->counters.prompt_tokens_received += computed - sequence->computed;
  state_->counters.models[r.model->name].prompt_tokens_received += computed - sequence->computed;
  sequence->computed = computed;
  r.await_blocks = false;
  sequence->phase = Phase::kPrefilling;
  state_->Publish(*sequence);
  state_->ReleaseHidden(*sequence);
  state_->StopAwaiting(*sequence);
  if (sequence->computed == sequence->goal()) {
    state_->EndPrompt(*sequence);
  } else if (r.is_prefill && sequence->computed > 0) {
    state_->ReportPrefill(*sequence, /*done=*/false);
  }
}

// ---- Read from elsewhere ----

Engine::BlockView Engine::ReadBlock(RequestId id, int index) const {
  Request* request = state_->Find(id);
  CHECK(request != nullptr && request->is_prefill) << "request " << id;
  Sequence& sequence = *request->sequences[0];
  CHECK_GE(index, 0);
  CHECK_GE(sequence.computed, std::min((index + 1) * kernels::kBlockTokens, sequence.goal()));
  return state_->ViewOf(sequence.blocks[index], state_->KeyOfPrompt(sequence, index));
}

std::span<const std::byte> Engine::ReadLayers(RequestId id, int index, int layers) const {
  Request* request = state_->Find(id);
  CHECK(request != nullptr && request->is_prefill) << "request " << id;
  CHECK_LE(layers, state_->shape.layers);
  return state_->BytesOf(request->sequences[0]->blocks.at(index))
      .first(state_->shape.k_tile_offset(layers, 0));
}

Engine::BlockView Engine::State::ViewOf(BlockId block, const BlockKey& key) {
  const std::span<const std::byte> bytes = BytesOf(block);
  const std::optional<uint64_t> sealed = pool.SealedChecksum(block);
  return {.key = key,
          .checksum = sealed ? *sealed : Checksum64(bytes),
          .bytes = bytes,
          .offset = block * shape.block_bytes()};
}

void Engine::ReleasePrefill(RequestId id) {
  Request* request = state_->Find(id);
  if (request == nullptr || !request->is_prefill) return;
  state_->GiveBack(*request->sequences[0]);
  state_->deadlines.erase({request->deadline, id});
  state_->requests.erase(id);
}

absl::StatusOr<int> Engine::State::LendBlock(RequestId id, BlockId block, const BlockKey& key,
                                             uint64_t checksum) {
  Loan& loan = loans[id];
  // A loan may be idle for longer than a lease, while its next blocks are computed.
  if (!sender.open(loan.ticket)) {
    loan.ticket = {.transfer = {.number = id}, .epoch = loan.ticket.epoch + 1};
  }
  // When it is open, the lease begins anew, unless nothing can be lent.
  if (!sender.open(loan.ticket) || sender.blocks_free() > 0) {
    const auto opened = sender.Pull(loan.ticket, now);
    if (!opened.ok()) {
      pool.Release(block);
      return opened.status();
    }
  }
  const int place = static_cast<int>(loan.blocks.size());
  RETURN_IF_ERROR(sender.Grant(loan.ticket, place, block));
  loan.blocks.push_back({block, key, checksum});
  ++loan.held;
  ++counters.blocks_lent;
  return place;
}

absl::StatusOr<std::optional<int>> Engine::Lend(RequestId loan, const BlockKey& key) {
  const std::vector<BlockId> found = state_->pool.AcquirePrefix({&key, 1});
  if (found.empty()) return std::nullopt;
  ASSIGN_OR_RETURN(const int place,
                   state_->LendBlock(loan, found[0], key, state_->pool.checksum(found[0])));
  return place;
}

absl::StatusOr<int> Engine::LendWritten(RequestId loan, RequestId prefill, int index) {
  // It may have ended already, and who asks has not heard of it yet.
  Request* request = state_->Find(prefill);
  if (request == nullptr) {
    return absl::NotFoundError(absl::StrFormat("request %d has ended", prefill));
  }
  const BlockView view = ReadBlock(prefill, index);
  const BlockId block = request->sequences[0]->blocks[index];
  state_->pool.Acquire(block);
  return state_->LendBlock(loan, block, view.key, view.checksum);
}

std::optional<Engine::BlockView> Engine::ReadLent(RequestId id, int place) {
  const auto loan = state_->loans.find(id);
  if (loan == state_->loans.end() || !state_->sender.holds(loan->second.ticket, place)) {
    return std::nullopt;
  }
  // The checksum is of the time when the block was lent: bytes that have changed do not match it.
  const State::Lent& lent = loan->second.blocks[place];
  return BlockView{.key = lent.key,
                   .checksum = lent.checksum,
                   .bytes = state_->BytesOf(lent.block),
                   .offset = lent.block * state_->shape.block_bytes()};
}

void Engine::ReturnLent(RequestId id, int place) {
  const auto loan = state_->loans.find(id);
  if (loan == state_->loans.end()) return;
  const HandoffTicket ticket = loan->second.ticket;
  const auto verdict = state_->sender.Taken(ticket, place, state_->now);
  if (verdict != HandoffSender::TakenVerdict::kReleased) return;
  --loan->second.held;
  if (!state_->sender.open(ticket)) EndLoan(id);  // that was the last
}

void Engine::PinBytes(int64_t offset) {
  state_->pool.Acquire(static_cast<BlockId>(offset / state_->shape.block_bytes()));
}

void Engine::UnpinBytes(int64_t offset) {
  state_->pool.Release(static_cast<BlockId>(offset / state_->shape.block_bytes()));
}

void Engine::FinishLoan(RequestId id) {
  const auto loan = state_->loans.find(id);
  if (loan == state_->loans.end()) return state_->Emit(LoanEndedEvent{.id = id});
  state_->sender.Finish(loan->second.ticket);
  if (!state_->sender.open(loan->second.ticket)) EndLoan(id);
}

void Engine::EndLoan(RequestId id) {
  const auto loan = state_->loans.extract(id);
  if (!loan.empty()) state_->sender.Release(loan.mapped().ticket);
  state_->Emit(LoanEndedEvent{.id = id});
}

// An attempt that held nothing, while the next blocks of its loan are computed, leaves no trace.
void Engine::State::ExpireLoans() {
  if (sender.Expire(now) == 0) return;
  for (auto loan = loans.begin(); loan != loans.end();) {
    const auto next = std::next(loan);
    if (loan->second.held > 0 && !sender.open(loan->second.ticket)) {
      ++counters.leases_expired;
      Emit(LoanEndedEvent{.id = loan->first, .expired = true});
      loans.erase(loan);
    }
    loan = next;
  }
}

// ---- For operators and listeners ----

std::vector<PublishedBlock> Engine::ListBlocks() const {
  std::vector<PublishedBlock> list;
  state_->pool.ForEachPublished([&](const PublishedBlock& block) { list.push_back(block); });
  return list;
}

std::optional<Engine::BlockView> Engine::FindBlock(const BlockKey& key) {
  const std::vector<BlockId> found = state_->pool.AcquirePrefix({&key, 1});
  if (found.empty()) return std::nullopt;
  const BlockView view = state_->ViewOf(found[0], key);
  state_->pool.Release(found[0]);
  return view;
}

int Engine::MatchPrefix(std::span<const BlockKey> keys) const {
  return state_->pool.MatchPrefix(keys);
}

Engine::Verified Engine::VerifyBlocks(int begin, int count) {
  Verified verified;
  const int end = std::min(begin + count, state_->pool.blocks_total());
  for (BlockId block = begin; block < end; ++block) {
    if (!state_->pool.published(block)) continue;
    ++verified.read;
    if (Checksum64(state_->BytesOf(block)) == state_->pool.checksum(block)) continue;
    state_->pool.Unpublish(block);
    ++state_->counters.blocks_corrupt;
    ++verified.bad;
  }
  return verified;
}

int Engine::EvictBlocks(std::string_view prefix) {
  std::vector<BlockId> chosen;
  state_->pool.ForEachPublished([&](const PublishedBlock& block) {
    if (absl::StartsWith(block.key.ToHex(), std::string(prefix))) chosen.push_back(block.block);
  });
  return static_cast<int>(std::count_if(
      chosen.begin(), chosen.end(), [this](BlockId block) { return state_->pool.Evict(block); }));
}

void Engine::RecordBlockEvents() { state_->pool.RecordEvents(true); }
std::vector<BlockEvent> Engine::TakeBlockEvents() { return state_->pool.TakeEvents(); }

void Engine::OnLayers(std::function<void(const LayersEvent&)> listener) {
  state_->on_layers = std::move(listener);
}

}  // namespace chorale
