// Which models are served, and what is counted for each.
#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/names.h"
#include "engine/state.h"

namespace chorale {

void Engine::SetModel(std::shared_ptr<const Model> model) {
  for (const Module* module : {&model->prompt_writer, &model->output_writer, &model->predictor}) {
    CHECK(module->transformer->kv_shape() == state_->shape);
    CHECK_EQ(module->transformer->config().vocab, state_->base->config().vocab);
  }
  // One pass runs a reader beside its writer.
  CHECK(model->predictor.transformer == model->output_writer.transformer);
  const std::string name = model->name;
  state_->models[name] = std::move(model);
  if (state_->counters.models.size() < kModelsCountedMax) return;
  std::erase_if(state_->counters.models,
                [&](const auto& counted) { return !state_->models.contains(counted.first); });
}

absl::Status Engine::RemoveModel(const std::string& name) {
  absl::Status found = state_->FindModel(name).status();
  if (found.ok()) state_->models.erase(name);
  return found;
}

absl::StatusOr<std::shared_ptr<const Model>> Engine::State::FindModel(
    const std::string& name) const {
  const auto it = models.find(name);
  if (it != models.end()) return it->second;
  std::vector<std::string> names;
  for (const auto& [known, model] : models) names.push_back(known);
  return absl::NotFoundError(
      absl::StrFormat("model '%s' is not served here; there is: %s", name, ListNames(names)));
}

bool Engine::State::IsRetired(const Request& request) const {
  const auto it = models.find(request.model->name);
  return it == models.end() || it->second != request.model;
}

int Engine::RequestsRetired(const std::string& name) const {
  int count = 0;
  for (const auto& [id, request] : state_->requests) {
    count += request->model->name == name && state_->IsRetired(*request);
  }
  return count;
}

void Engine::CancelRetired(const std::string& name, const absl::Status& why) {
  std::vector<RequestId> retired;
  for (const auto& [id, request] : state_->requests) {
    if (request->model->name == name && state_->IsRetired(*request)) retired.push_back(id);
  }
  for (RequestId id : retired) Cancel(id, why);
}

// A number for a name, for ever.
int Engine::State::IdOf(const std::string& name) {
  return name_ids.try_emplace(name, static_cast<int>(name_ids.size())).first->second;
}

// What a sequence found in the cache when it got its blocks.
void Engine::State::CountReuse(const Sequence& sequence) {
  const std::string& name = sequence.request->model->name;
  ModelStats& of_model = counters.models[name];
  const int own_id = IdOf(name);
  for (int i = 0; i < sequence.published; ++i) {
    // What lies behind the window counts as the first block that is there.
    const bool own = published_by[sequence.blocks[std::max(i, sequence.hidden)]] == own_id;
    (own ? of_model.prompt_tokens_reused_own : of_model.prompt_tokens_reused_shared) +=
        kernels::kBlockTokens;
    if (!own && i >= sequence.hidden) counters.kv_bytes_shared += shape.block_bytes();
  }
  counters.prompt_tokens_cached += int64_t{sequence.published} * kernels::kBlockTokens;
}

// One forward pass over the entries [begin, end) of the batch.
void Engine::State::CountPass(size_t begin, size_t end) {
  const Model* first = nullptr;
  bool mixed = false;
  for (size_t i = begin; i < end; ++i) {
    counters.rows += batch[i].rows;
    if (batch[i].sequence->phase != Phase::kDecoding) continue;
    const Model* model = batch[i].sequence->request->model.get();
    counters.rows += model->reader() != nullptr;
    ++counters.models[model->name].decode_rows;
    if (first == nullptr) first = model;
    mixed |= model->name != first->name;
  }
  ++counters.passes;
  counters.decode_passes += first != nullptr;
  counters.decode_passes_mixed += mixed;
}

}  // namespace chorale
