#include "services/gateway/gateway.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "api/model_text.h"
#include "base/names.h"
#include "base/status_macros.h"
#include "engine/request.h"
#include "rpc/convert.h"

namespace chorale {
namespace {

// The model that `name` asks for; an empty name means the only one there is.
absl::StatusOr<BackendModel> FindModel(const Backend& backend, const std::string& name) {
  std::vector<BackendModel> models = backend.Models();
  if (models.empty()) {
    return absl::UnavailableError("no worker has joined the cluster yet, try again soon");
  }
  if (name.empty() && models.size() == 1) return models.front();
  std::vector<std::string> names;
  for (BackendModel& model : models) {
    if (model.served.name() == name) return std::move(model);
    names.push_back(model.served.name());
  }
  if (name.empty()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'model': name one of %s", ListNames(names)));
  }
  return absl::NotFoundError(
      absl::StrFormat("model '%s' does not exist; there is: %s", name, ListNames(names)));
}

absl::Status ValidatePrompt(const std::vector<TokenId>& prompt, const v1::ServedModel& model) {
  if (prompt.empty()) return absl::InvalidArgumentError("field 'prompt': it has no tokens");
  if (static_cast<int64_t>(prompt.size()) >= model.context_tokens()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'prompt': %d tokens, but the context of model '%s' holds %d (%s) "
        "with at least one token of output; shorten the prompt",
        prompt.size(), model.name(), model.context_tokens(), model.context_reason()));
  }
  for (TokenId token : prompt) {
    if (token < 0 || token >= model.vocab()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'prompt': token id %d is outside the vocabulary of %d", token, model.vocab()));
    }
  }
  return absl::OkStatus();
}

// Defaults are cut to what the context holds; a number that the request itself asks for is not.
absl::Status ValidateMaxTokens(const v1::Sampling& request, size_t prompt_tokens,
                               const v1::ServedModel& model) {
  const int64_t room = model.context_tokens() - static_cast<int64_t>(prompt_tokens);
  if (!request.has_max_tokens() || request.max_tokens() <= room) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "field 'max_tokens': %d after a prompt of %d tokens, but the context of model '%s' holds %d "
      "(%s); send at most %d",
      request.max_tokens(), prompt_tokens, model.name(), model.context_tokens(),
      model.context_reason(), room));
}

// The request's own fields win; its stop strings stand in place of the model's.
v1::Sampling WithDefaults(const v1::Sampling& request, const v1::Sampling& defaults) {
  v1::Sampling sampling = defaults;
  if (request.stop_size() > 0) sampling.clear_stop();
  sampling.MergeFrom(request);
  return sampling;
}

uint64_t DrawSeed() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return generator();
}

// A call before and after it reaches the backend; a cancellation may come at any point.
class GatewayCall : public Gateway::Call {
 public:
  void Cancel() override {
    std::function<void()> cancel;
    {
      std::lock_guard lock(mutex_);
      cancelled_ = true;
      cancel = cancel_backend_;
    }
    if (cancel) cancel();
  }

  bool cancelled() const {
    std::lock_guard lock(mutex_);
    return cancelled_;
  }

  void SetBackendCancel(std::function<void()> cancel) {
    {
      std::lock_guard lock(mutex_);
      cancel_backend_ = cancel;
      if (!cancelled_) return;
    }
    cancel();
  }

 private:
  mutable std::mutex mutex_;
  bool cancelled_ = false;                // under mutex_
  std::function<void()> cancel_backend_;  // under mutex_
};

}  // namespace

struct Gateway::State {
  State(const Options& options, Backend& backend) : options(options), backend(backend) {}

  absl::StatusOr<v1::DecodeRequest> Prepare(const v1::GenerateRequest& request,
                                            const Tenant& tenant);
  absl::StatusOr<std::vector<TokenId>> Tokenize(const std::string& model, const std::string& text);
  // Refuses a request of more than prompt_bytes_max, and any when the queue is full.
  absl::Status Post(size_t bytes, std::function<void()> task);
  void Run();

  const Options options;
  Backend& backend;
  ModelTexts texts;
  std::mutex mutex;
  std::condition_variable wake;
  struct Task {
    std::function<void()> run;
    int64_t bytes = 0;
  };
  std::deque<Task> tasks;    // under mutex
  int64_t bytes_queued = 0;  // of tasks; under mutex
  bool stopping = false;     // under mutex
  std::vector<std::thread> threads;
};

absl::StatusOr<v1::DecodeRequest> Gateway::State::Prepare(const v1::GenerateRequest& request,
                                                          const Tenant& tenant) {
  ASSIGN_OR_RETURN(BackendModel model, FindModel(backend, request.model()));
  if (request.n() < 0 || request.n() > kSequencesOfRequestMax) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'n': %d, expected 1 to %d", request.n(), kSequencesOfRequestMax));
  }
  const v1::Sampling sampling = options.use_model_defaults
                                    ? WithDefaults(request.sampling(), model.served.defaults())
                                    : request.sampling();
  RETURN_IF_ERROR(
      ValidateSampling(FromProto(sampling, model.served.context_tokens()), model.served.vocab()));
  ASSIGN_OR_RETURN(std::shared_ptr<const ModelText> text,
                   texts.Get(model.served.folder(), model.served.text_folder()));
  ASSIGN_OR_RETURN(const Prompt prompt, text->PromptOf(request, model.served.context_tokens()));
  RETURN_IF_ERROR(ValidatePrompt(prompt.tokens, model.served));
  RETURN_IF_ERROR(ValidateMaxTokens(request.sampling(), prompt.tokens.size(), model.served));

  v1::DecodeRequest decode;
  decode.set_model(model.served.name());
  decode.mutable_prompt()->Assign(prompt.tokens.begin(), prompt.tokens.end());
  decode.set_public_tokens(prompt.public_tokens);
  decode.set_tenant_salt(tenant.salt);
  *decode.mutable_sampling() = sampling;
  if (!decode.sampling().has_seed()) decode.mutable_sampling()->set_seed(DrawSeed());
  decode.set_n(request.n() == 0 ? 1 : request.n());
  decode.set_no_prefix_reuse(request.no_prefix_reuse());
  return decode;
}

absl::StatusOr<std::vector<TokenId>> Gateway::State::Tokenize(const std::string& model,
                                                              const std::string& text) {
  ASSIGN_OR_RETURN(BackendModel found, FindModel(backend, model));
  ASSIGN_OR_RETURN(std::shared_ptr<const ModelText> model_text,
                   texts.Get(found.served.folder(), found.served.text_folder()));
  return model_text->Tokenize(text, found.served.context_tokens());
}

absl::Status Gateway::State::Post(size_t bytes, std::function<void()> task) {
  if (bytes > static_cast<size_t>(options.prompt_bytes_max)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'prompt': the request has %d bytes, more than the limit of %d",
                        bytes, options.prompt_bytes_max));
  }
  {
    std::lock_guard lock(mutex);
    if (stopping) return absl::UnavailableError("the router is shutting down");
    if (static_cast<int>(tasks.size()) >= options.queue_max ||
        bytes_queued > options.queue_bytes_max) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("%d requests of %d bytes wait to be tokenized already, try again soon",
                          tasks.size(), bytes_queued));
    }
    tasks.push_back({std::move(task), static_cast<int64_t>(bytes)});
    bytes_queued += static_cast<int64_t>(bytes);
  }
  wake.notify_one();
  return absl::OkStatus();
}

void Gateway::State::Run() {
  while (true) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex);
      wake.wait(lock, [this] { return stopping || !tasks.empty(); });
      if (tasks.empty()) return;
      task = std::move(tasks.front().run);
      bytes_queued -= tasks.front().bytes;
      tasks.pop_front();
    }
    task();
  }
}

Gateway::Gateway(const Options& options, Backend& backend)
    : state_(std::make_unique<State>(options, backend)) {
  for (int i = 0; i < options.tokenizer_threads; ++i) {
    state_->threads.emplace_back([state = state_.get()] { state->Run(); });
  }
}

Gateway::~Gateway() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->wake.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
}

std::shared_ptr<Gateway::Call> Gateway::Start(v1::GenerateRequest request, Tenant tenant,
                                              absl::Time deadline, ChunkFn on_chunk,
                                              DoneFn on_done) {
  auto call = std::make_shared<GatewayCall>();
  const size_t bytes = request.ByteSizeLong();
  const absl::Status posted = state_->Post(bytes, [state = state_.get(), call,
                                                   request = std::move(request),
                                                   tenant = std::move(tenant), deadline,
                                                   on_chunk = std::move(on_chunk), on_done] {
    if (call->cancelled()) return on_done(absl::CancelledError("cancelled by the caller"));
    if (absl::Now() >= deadline) {
      return on_done(absl::DeadlineExceededError("the deadline passed while the request waited"));
    }
    absl::StatusOr<v1::DecodeRequest> decode = state->Prepare(request, tenant);
    if (!decode.ok()) return on_done(decode.status());
    call->SetBackendCancel(state->backend.Start(*std::move(decode), deadline, on_chunk, on_done));
  });
  if (!posted.ok()) on_done(posted);
  return call;
}

void Gateway::Tokenize(std::string model, std::string text, TokensFn on_done) {
  const size_t bytes = text.size();
  const absl::Status posted =
      state_->Post(bytes, [state = state_.get(), model = std::move(model), text = std::move(text),
                           on_done] { on_done(state->Tokenize(model, text)); });
  if (!posted.ok()) on_done(posted);
}

v1::ListModelsResponse Gateway::ListModels() const {
  v1::ListModelsResponse response;
  for (const BackendModel& model : state_->backend.Models()) {
    v1::ListModelsResponse::Model* out = response.add_models();
    out->set_name(model.served.name());
    out->set_mode(model.served.mode());
    out->set_digest(model.served.digest());
    out->set_context_tokens(model.served.context_tokens());
    out->set_context_reason(model.served.context_reason());
    out->set_attention(model.served.attention());
    if (state_->options.use_model_defaults) *out->mutable_defaults() = model.served.defaults();
    *out->mutable_notes() = model.served.notes();
    out->set_prefill_workers(model.prefill_workers);
    out->set_decode_workers(model.decode_workers);
  }
  return response;
}

}  // namespace chorale
