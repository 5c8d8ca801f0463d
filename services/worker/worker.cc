#include "services/worker/worker.h"

#include <algorithm>
#include <filesystem>
#include <thread>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

constexpr int64_t kKvMibDefault = 512;

absl::StatusOr<std::optional<kernels::DType>> ParseDType(const std::string& name) {
  if (name == "auto") return std::nullopt;
  if (name == "f32") return kernels::DType::kF32;
  if (name == "bf16") return kernels::DType::kBF16;
  return absl::InvalidArgumentError(
      absl::StrFormat("--dtype '%s': expected auto, f32 or bf16", name));
}

// As many blocks as are asked for, or as the memory holds.
absl::StatusOr<int> CountBlocks(const WorkerOptions& options, const Model& model) {
  if (options.engine.blocks > 0) return options.engine.blocks;
  const int64_t mib = options.kv_mib > 0 ? options.kv_mib : kKvMibDefault;
  const int64_t blocks = (mib << 20) / model.kv_shape().block_bytes();
  if (blocks < 2) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--kv-mib %d holds %d blocks of %d bytes: give at least %d MiB", mib, blocks,
        model.kv_shape().block_bytes(), (2 * model.kv_shape().block_bytes() >> 20) + 1));
  }
  return static_cast<int>(std::min<int64_t>(blocks, INT32_MAX / kernels::kBlockTokens));
}

}  // namespace

Worker::Worker(WorkerOptions options) : options_(std::move(options)) {
  if (options_.threads == 0) {
    options_.threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }
  pool_ = std::make_unique<kernels::ThreadPool>(options_.threads);
}

Worker::~Worker() {
  if (host_ != nullptr) host_->Stop();
}

absl::Status Worker::Load() {
  Model::Options model_options;
  ASSIGN_OR_RETURN(model_options.kernels, kernels::FindKernels(options_.kernels));
  ASSIGN_OR_RETURN(model_options.dtype, ParseDType(options_.dtype));
  ASSIGN_OR_RETURN(model_, Model::Load(options_.model.folder, model_options, *pool_,
                                       [this](double share) { load_progress_ = 0.95 * share; }));
  const std::string tokenizer_path = options_.model.folder + "/tokenizer.json";
  if (std::filesystem::exists(tokenizer_path)) {
    ASSIGN_OR_RETURN(tokenizer_, Tokenizer::Load(tokenizer_path));
    if (tokenizer_->vocab_size() > model_->config().vocab) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: ids up to %d, but the model's vocabulary ends at %d", tokenizer_path,
                          tokenizer_->vocab_size() - 1, model_->config().vocab - 1));
    }
  }
  for (const NamedFolder& adapter : options_.adapters) {
    if (adapter.name == options_.model.name || adapters_.contains(adapter.name)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("--adapter %s: the name is taken, choose another", adapter.name));
    }
    ASSIGN_OR_RETURN(adapters_[adapter.name], model_->LoadAdapter(adapter.folder));
  }
  ASSIGN_OR_RETURN(options_.engine.blocks, CountBlocks(options_, *model_));
  host_ = std::make_shared<EngineHost>(options_.engine, *model_, tokenizer_.get());
  load_progress_ = 1;
  ready_ = true;
  return absl::OkStatus();
}

absl::StatusOr<Worker::Target> Worker::Find(const std::string& name) const {
  if (!ready_) {
    return absl::UnavailableError(absl::StrFormat("weights are loading (%.0f %%), try again soon",
                                                  100 * load_progress_.load()));
  }
  if (name == options_.model.name) return Target{.writer = model_->digest()};
  if (auto it = adapters_.find(name); it != adapters_.end()) {
    return Target{.adapter = it->second.get(), .writer = it->second->module_digest};
  }
  std::vector<std::string> names = {options_.model.name};
  for (const NamedFolder& adapter : options_.adapters) names.push_back(adapter.name);
  return absl::NotFoundError(absl::StrFormat("model '%s' is not served here; there is: %s", name,
                                             absl::StrJoin(names, ", ")));
}

std::vector<v1::ServedModel> Worker::ServedModels() const {
  std::vector<v1::ServedModel> served;
  if (!ready_) return served;
  v1::ServedModel base;
  base.set_name(options_.model.name);
  base.set_folder(std::filesystem::absolute(options_.model.folder).string());
  base.set_writer_digest(std::string(model_->digest().AsBytes()));
  base.set_context_tokens(model_->config().positions_max);
  base.set_vocab(model_->config().vocab);
  base.set_block_bytes(model_->kv_shape().block_bytes());
  served.push_back(base);
  for (const NamedFolder& adapter : options_.adapters) {
    v1::ServedModel model = base;
    model.set_name(adapter.name);
    model.set_base(options_.model.name);
    model.set_writer_digest(std::string(adapters_.at(adapter.name)->module_digest.AsBytes()));
    served.push_back(std::move(model));
  }
  return served;
}

void Worker::Describe(v1::WorkerReport& report) const {
  report.set_ready(ready_);
  report.set_load_progress(load_progress_);
  if (!ready_) return;
  for (v1::ServedModel& model : ServedModels()) *report.add_models() = std::move(model);
  const EngineStats stats = host_->stats();
  report.set_requests_running(stats.prefilling + stats.decoding + stats.awaiting_blocks);
  report.set_requests_waiting(stats.waiting);
  report.set_blocks_total(stats.blocks_total);
  report.set_blocks_free(stats.blocks_total - stats.blocks_held);
}

std::vector<std::pair<std::string, int64_t>> Worker::Metrics() const {
  if (!ready_) return {};
  const EngineStats s = host_->stats();
  return {{"sequences_waiting", s.waiting},
          {"sequences_prefilling", s.prefilling},
          {"sequences_decoding", s.decoding},
          {"sequences_awaiting_blocks", s.awaiting_blocks},
          {"blocks_total", s.blocks_total},
          {"blocks_free", s.blocks_free},
          {"blocks_cached", s.blocks_cached},
          {"blocks_held", s.blocks_held},
          {"blocks_rejected", s.blocks_rejected},
          {"steps", s.steps},
          {"rows", s.rows},
          {"prompt_tokens_computed", s.prompt_tokens_computed},
          {"prompt_tokens_cached", s.prompt_tokens_cached},
          {"prompt_tokens_received", s.prompt_tokens_received},
          {"tokens_generated", s.tokens_generated},
          {"preemptions", s.preemptions},
          {"requests_live", host_->requests_live()}};
}

}  // namespace chorale
