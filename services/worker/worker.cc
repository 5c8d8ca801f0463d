#include "services/worker/worker.h"

#include <algorithm>
#include <filesystem>
#include <thread>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "model/checkpoint/text_digest.h"
#include "process/log.h"
#include "rpc/blocks/convert_blocks.h"

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

// Whether keys and values are rounded to 8 bits.
absl::StatusOr<bool> ParseKv(const std::string& name) {
  if (name == "exact") return false;
  if (name == "int8") return true;
  return absl::InvalidArgumentError(absl::StrFormat("--kv '%s': expected exact or int8", name));
}

// As many blocks as are asked for, or as the memory holds.
absl::StatusOr<int> CountBlocks(const WorkerOptions& options, const Transformer& base) {
  if (options.engine.blocks > 0) return options.engine.blocks;
  const int64_t mib = options.kv_mib > 0 ? options.kv_mib : kKvMibDefault;
  const int64_t blocks = (mib << 20) / base.kv_shape().block_bytes();
  if (blocks < 2) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--kv-mib %d holds %d blocks of %d bytes: give at least %d MiB", mib, blocks,
        base.kv_shape().block_bytes(), (2 * base.kv_shape().block_bytes() >> 20) + 1));
  }
  return static_cast<int>(std::min<int64_t>(blocks, INT32_MAX / kernels::kBlockTokens));
}

absl::StatusOr<ModuleSpec> FromProto(const v1::ModuleSpec& proto, const std::string& name) {
  ModuleSpec spec{.name = name, .weights = proto.weights(), .adapter = proto.adapter()};
  if (!proto.quantize().empty()) {
    ASSIGN_OR_RETURN(spec.quantization, ParseQuantization(proto.quantize()));
  }
  return spec;
}

absl::StatusOr<ModelSpec> FromProto(const v1::ModelSpec& proto) {
  ModelSpec spec{.name = proto.name()};
  if (!proto.mode().empty()) {
    ASSIGN_OR_RETURN(spec.mode, ParseMode(proto.mode()));
  }
  ASSIGN_OR_RETURN(spec.module, FromProto(proto.module(), proto.name()));
  ASSIGN_OR_RETURN(spec.decoder, FromProto(proto.decoder(), proto.name() + "'s decoder"));
  RETURN_IF_ERROR(CheckSpec(spec));
  return spec;
}

constexpr absl::Duration kDrainPoll = absl::Milliseconds(2);

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
  Transformer::Options options;
  ASSIGN_OR_RETURN(options.kernels, kernels::FindKernels(options_.kernels));
  ASSIGN_OR_RETURN(options.dtype, ParseDType(options_.dtype));
  ASSIGN_OR_RETURN(options.kv_int8, ParseKv(options_.kv));
  if (!options_.cache_dir.empty()) options.digest_cache = options_.cache_dir + "/digests";
  for (const ModelSpec& spec : options_.catalog.models) RETURN_IF_ERROR(CheckSpec(spec));
  const std::string& folder = options_.catalog.base;
  ASSIGN_OR_RETURN(loader_, ModelLoader::Open(folder, options, *pool_, [this](double share) {
                     load_progress_ = 0.5 * share;
                   }));
  RETURN_IF_ERROR(LoadTokenizer());
  loader_->UseTokenizer(tokenizer_.get());
  ASSIGN_OR_RETURN(options_.engine.blocks, CountBlocks(options_, base()));
  std::vector<ModelSpec> specs = options_.catalog.models;
  if (options_.prompt_writers_only) {
    std::transform(specs.begin(), specs.end(), specs.begin(), PromptWriterOf);
  }
  ASSIGN_OR_RETURN(auto models, loader_->Load(specs, *pool_, [this](double share) {
    load_progress_ = 0.5 + 0.49 * share;
  }));
  format_ = FormatOf(base().kv_shape());
  if (base().kv_int8()) format_.set_encoding("int8");
  RETURN_IF_ERROR(MakeRegion());
  host_ = std::make_shared<EngineHost>(options_.engine, loader_->base().transformer, *pool_,
                                       tokenizer_.get());
  for (auto& model : models) {
    ASSIGN_OR_RETURN(ServedModelInfo info, InfoOf(*model));
    RETURN_IF_ERROR(Serve(std::move(model), std::move(info)));
  }
  load_progress_ = 1;
  ready_ = true;
  return absl::OkStatus();
}

absl::Status Worker::LoadTokenizer() {
  const std::string path = options_.catalog.base + "/tokenizer.json";
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) return absl::OkStatus();
  ASSIGN_OR_RETURN(tokenizer_, Tokenizer::Load(path));
  if (tokenizer_->vocab_size() > base().config().vocab) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: ids up to %d, but the model's vocabulary ends at %d", path,
                        tokenizer_->vocab_size() - 1, base().config().vocab - 1));
  }
  return absl::OkStatus();
}

// The memory of the blocks. Where the host lets us serve it to nobody, it is ours alone.
absl::Status Worker::MakeRegion() {
  if (!options_.shared_memory) return absl::OkStatus();
  ASSIGN_OR_RETURN(region_,
                   SharedRegion::Create(base().kv_shape().block_bytes() * options_.engine.blocks));
  options_.engine.memory = region_->bytes();
  absl::StatusOr<std::unique_ptr<RegionServer>> server = RegionServer::Start(*region_);
  if (server.ok()) {
    region_server_ = *std::move(server);
    region_name_ = region_server_->address();
  } else {
    LogWarning("blocks are not shared with workers on this host: ", server.status().message());
  }
  return absl::OkStatus();
}

absl::Status Worker::CheckReady() const {
  if (ready_) return absl::OkStatus();
  return absl::UnavailableError(absl::StrFormat("weights are loading (%.0f %%), try again soon",
                                                100 * load_progress_.load()));
}

// What is told of a model. What its files say beside its weights is in it, and a digest of them.
absl::StatusOr<ServedModelInfo> Worker::InfoOf(const Model& model) const {
  const std::string& text = model.text_folder.empty() ? options_.catalog.base : model.text_folder;
  ServedModelInfo served = {.name = model.name,
                            .mode = NameOf(model.mode),
                            .folder = std::filesystem::absolute(options_.catalog.base).string(),
                            .prompt_writer = model.prompt_writer.digest(),
                            .digest = model.digest,
                            .text_folder = std::filesystem::absolute(text).string(),
                            .defaults = model.generation.defaults,
                            .notes = model.generation.notes,
                            .vocab = base().config().vocab,
                            .block_bytes = base().kv_shape().block_bytes()};
  ASSIGN_OR_RETURN(served.text_digest, TextDigest(served.folder, served.text_folder));
  SetContext(served);
  return served;
}

// What its files ask for in vain is told once, at load.
absl::Status Worker::Serve(std::shared_ptr<const Model> model, ServedModelInfo served) {
  for (const std::string& note : served.notes) LogWarning("model '", served.name, "': ", note);
  if (!host_->Do([&](Engine& engine) { engine.SetModel(std::move(model)); })) {
    return absl::UnavailableError("the worker is shutting down");
  }
  std::lock_guard lock(mutex_);
  const std::string name = served.name;
  served_[name] = std::move(served);
  return absl::OkStatus();
}

// How many tokens a request may have here, and why not more.
void Worker::SetContext(ServedModelInfo& served) const {
  const ModelConfig& config = base().config();
  served.context_tokens = config.positions_max;
  served.context_reason = config.context_reason;
  host_->Do([&](Engine& engine) { served.context_tokens = engine.tokens_max(); });
  if (served.context_tokens < config.positions_max) {
    served.context_reason =
        absl::StrFormat("--kv-mib or --blocks: a worker's %d blocks of %d tokens",
                        options_.engine.blocks, kernels::kBlockTokens);
  }
  const AttentionWindow& window = config.window;
  served.attention = window.tokens == 0
                         ? "all tokens"
                         : absl::StrFormat("the last %d tokens in %d of %d layers", window.tokens,
                                           window.layers_windowed(), config.layers);
  served.short_context_tokens = config.short_context();
}

absl::StatusOr<v1::ModelChange> Worker::LoadModel(const v1::ModelSpec& proto, const Drain& drain) {
  RETURN_IF_ERROR(CheckReady());
  ASSIGN_OR_RETURN(ModelSpec spec, FromProto(proto));
  if (options_.prompt_writers_only) spec = PromptWriterOf(spec);
  std::unique_lock changing(changing_, std::try_to_lock);
  if (!changing)
    return absl::ResourceExhaustedError("another change of models is under way, try again");
  kernels::ThreadPool pool(1);  // the engine has the other one
  ASSIGN_OR_RETURN(auto models, loader_->Load({spec}, pool));
  v1::ModelChange change;
  change.set_digest(std::string(models[0]->digest.AsBytes()));
  ASSIGN_OR_RETURN(ServedModelInfo info, InfoOf(*models[0]));
  {
    std::lock_guard lock(mutex_);
    const auto served = served_.find(spec.name);
    if (served != served_.end() && served->second.digest == info.digest &&
        served->second.mode == info.mode && served->second.text_digest == info.text_digest &&
        served->second.text_folder == info.text_folder) {
      return change;
    }
  }
  change.set_changed(true);
  RETURN_IF_ERROR(Serve(std::move(models[0]), std::move(info)));
  change.set_requests_ended(EndRetired(spec.name, drain));
  return change;
}

absl::StatusOr<v1::ModelChange> Worker::UnloadModel(const std::string& name, const Drain& drain) {
  RETURN_IF_ERROR(CheckReady());
  std::unique_lock changing(changing_, std::try_to_lock);
  if (!changing)
    return absl::ResourceExhaustedError("another change of models is under way, try again");
  {
    std::lock_guard lock(mutex_);
    if (served_.size() == 1 && served_.contains(name)) {
      return absl::FailedPreconditionError(
          absl::StrFormat("model '%s' is the last one here; end the worker instead", name));
    }
  }
  absl::Status removed = absl::UnavailableError("the worker is shutting down");
  host_->Do([&](Engine& engine) { removed = engine.RemoveModel(name); });
  RETURN_IF_ERROR(removed);
  {
    std::lock_guard lock(mutex_);
    served_.erase(name);
  }
  v1::ModelChange change;
  change.set_changed(true);
  change.set_requests_ended(EndRetired(name, drain));
  return change;
}

// Returns, when no request runs on what `name` no longer means, how many were ended.
int Worker::EndRetired(const std::string& name, const Drain& drain) {
  while (true) {
    int running = 0;
    const bool out_of_time = absl::Now() >= drain.until || drain.is_cancelled();
    host_->Do([&](Engine& engine) {
      running = engine.RequestsRetired(name);
      if (out_of_time) {
        engine.CancelRetired(name, absl::AbortedError(absl::StrFormat(
                                       "model '%s' was replaced or unloaded while the request ran; "
                                       "send it again",
                                       name)));
      }
    });
    if (running == 0 || out_of_time) return running;
    absl::SleepFor(kDrainPoll);
  }
}

std::vector<ServedModelInfo> Worker::ServedModels() const {
  std::vector<ServedModelInfo> served;
  if (!ready_) return served;
  std::lock_guard lock(mutex_);
  for (const auto& [name, model] : served_) served.push_back(model);
  return served;
}

void Worker::Describe(WorkerInfo& report) const {
  report.ready = ready_;
  report.load_progress = load_progress_;
  if (!ready_) return;
  report.models = ServedModels();
  const EngineStats stats = host_->stats();
  report.requests_running = stats.prefilling + stats.decoding + stats.awaiting_blocks;
  report.requests_waiting = stats.waiting;
  report.blocks_total = stats.blocks_total;
  report.blocks_free = stats.blocks_total - stats.blocks_held;
}

void Worker::Describe(v1::WorkerStatusResponse& response) const {
  if (!ready_) return;
  const EngineStats s = host_->stats();
  const std::pair<const char*, int64_t> counters[] = {
      {"sequences_waiting", s.waiting},
      {"sequences_prefilling", s.prefilling},
      {"sequences_decoding", s.decoding},
      {"sequences_awaiting_blocks", s.awaiting_blocks},
      {"blocks_total", s.blocks_total},
      {"blocks_free", s.blocks_free},
      {"blocks_cached", s.blocks_cached},
      {"blocks_held", s.blocks_held},
      {"blocks_rejected", s.blocks_rejected},
      {"blocks_corrupt", s.blocks_corrupt},
      {"blocks_lent", s.blocks_lent},
      {"blocks_on_loan", s.blocks_on_loan},
      {"loans", s.loans},
      {"leases_expired", s.leases_expired},
      {"block_bytes", base().kv_shape().block_bytes()},
      {"steps", s.steps},
      {"rows", s.rows},
      {"passes", s.passes},
      {"decode_passes", s.decode_passes},
      {"decode_passes_mixed", s.decode_passes_mixed},
      {"prompt_tokens_computed", s.prompt_tokens_computed},
      {"prompt_tokens_cached", s.prompt_tokens_cached},
      {"prompt_tokens_received", s.prompt_tokens_received},
      {"kv_bytes_shared", s.kv_bytes_shared},
      {"tokens_generated", s.tokens_generated},
      {"preemptions", s.preemptions},
      {"requests_live", host_->requests_live()}};
  for (const auto& [name, value] : counters) (*response.mutable_engine())[name] = value;
  for (const auto& [name, of_model] : s.models) {
    v1::ModelCounters& counters = (*response.mutable_models())[name];
    counters.set_prompt_tokens_computed(of_model.prompt_tokens_computed);
    counters.set_prompt_tokens_reused_own(of_model.prompt_tokens_reused_own);
    counters.set_prompt_tokens_reused_shared(of_model.prompt_tokens_reused_shared);
    counters.set_prompt_tokens_received(of_model.prompt_tokens_received);
    counters.set_decode_rows(of_model.decode_rows);
  }
}

}  // namespace chorale
