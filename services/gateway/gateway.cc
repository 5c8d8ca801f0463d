#include "services/gateway/gateway.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <variant>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "services/gateway/model_texts.h"
#include "base/names.h"
#include "base/status_macros.h"
#include "engine/request.h"

namespace chorale {
namespace {

// The model that `name` asks for; an empty name means the only one there is.
absl::StatusOr<const ModelEntry*> FindModel(const ModelTable& models, const std::string& name) {
  if (models.empty()) {
    return absl::UnavailableError("no worker has joined the cluster yet, try again soon");
  }
  if (name.empty() && models.size() == 1) return &*models.begin();
  if (name.empty()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'model': name one of %s", ListNames(models.names())));
  }
  if (const ModelEntry* model = models.Find(name); model != nullptr) return model;
  return absl::NotFoundError(absl::StrFormat("model '%s' does not exist; there is: %s", name,
                                             ListNames(models.names())));
}

// The client's name of what its prompt is made of.
const char* FieldOf(const PromptRequest& prompt) {
  return std::holds_alternative<Chat>(prompt) ? "messages" : "prompt";
}

absl::Status ValidatePrompt(const char* field, const std::vector<TokenId>& prompt,
                            const ServedModelInfo& model) {
  if (prompt.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat("field '%s': it has no tokens", field));
  }
  if (static_cast<int64_t>(prompt.size()) >= model.context_tokens) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field '%s': %d tokens, but the context of model '%s' holds %d (%s) "
        "with at least one token of output; shorten it",
        field, prompt.size(), model.name, model.context_tokens, model.context_reason));
  }
  for (TokenId token : prompt) {
    if (token < 0 || token >= model.vocab) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field '%s': token id %d is outside the vocabulary of %d", field, token, model.vocab));
    }
  }
  return absl::OkStatus();
}

// Defaults are cut to what the context holds; a number that the request itself asks for is not.
absl::Status ValidateMaxTokens(const SamplingRequest& sampling, int tokens_left,
                               const ServedModelInfo& model) {
  if (sampling.max_tokens.value_or(0) <= tokens_left) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "field '%s': %d after a prompt of %d tokens, but the context of model '%s' holds %d (%s); "
      "send at most %d",
      sampling.max_tokens_field, *sampling.max_tokens, model.context_tokens - tokens_left,
      model.name, model.context_tokens, model.context_reason, tokens_left));
}

// About what a prompt takes in memory while it waits.
size_t BytesOf(const PromptRequest& prompt) {
  if (const auto* text = std::get_if<std::string>(&prompt)) return text->size();
  if (const auto* tokens = std::get_if<TokenPrompt>(&prompt)) {
    return tokens->ids.size() * sizeof(TokenId);
  }
  if (const auto* chat = std::get_if<Chat>(&prompt)) return chat->bytes;
  return 0;
}

uint64_t DrawSeed() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return generator();
}

}  // namespace

void Gateway::Call::Cancel() {
  std::function<void()> cancel;
  {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
    cancel = cancel_backend_;
  }
  if (cancel) cancel();
}

bool Gateway::Call::cancelled() const {
  std::lock_guard lock(mutex_);
  return cancelled_;
}

void Gateway::Call::SetBackendCancel(std::function<void()> cancel) {
  {
    std::lock_guard lock(mutex_);
    cancel_backend_ = cancel;
    if (!cancelled_) return;
  }
  cancel();
}

struct Gateway::State {
  State(const Options& options, Backend& backend) : options(options), backend(backend) {}

  absl::StatusOr<GenerateRequest> Prepare(CompletionRequest request, const Tenant& tenant);
  absl::StatusOr<std::shared_ptr<const ModelText>> TextOf(const ServedModelInfo& model);
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

absl::StatusOr<std::shared_ptr<const ModelText>> Gateway::State::TextOf(
    const ServedModelInfo& model) {
  return texts.Get(model.folder, model.text_folder, model.text_digest);
}

absl::StatusOr<GenerateRequest> Gateway::State::Prepare(CompletionRequest request,
                                                        const Tenant& tenant) {
  const std::shared_ptr<const ModelTable> models = backend.models();
  ASSIGN_OR_RETURN(const ModelEntry* entry, FindModel(*models, request.model));
  const ServedModelInfo& model = entry->served;
  if (request.n < 1 || request.n > kSequencesOfRequestMax) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'n': %d, expected 1 to %d", request.n, kSequencesOfRequestMax));
  }
  const GenerationDefaults defaults =
      options.use_model_defaults ? model.defaults : GenerationDefaults();
  // Before the prompt is made: that costs more.
  RETURN_IF_ERROR(ValidateSampling(Resolve(request.sampling, defaults, model.context_tokens),
                                   model.vocab));
  ASSIGN_OR_RETURN(std::shared_ptr<const ModelText> text, TextOf(model));
  const char* field = FieldOf(request.prompt);
  ASSIGN_OR_RETURN(Prompt prompt, text->PromptOf(std::move(request.prompt), model.context_tokens,
                                                 absl::Now()));
  if (!prompt.public_refusal.empty()) texts.Warn(prompt.public_refusal);
  RETURN_IF_ERROR(ValidatePrompt(field, prompt.tokens, model));
  const int tokens_left = model.context_tokens - static_cast<int>(prompt.tokens.size());
  RETURN_IF_ERROR(ValidateMaxTokens(request.sampling, tokens_left, model));

  GenerateRequest generate = {.model = model.name,
                              .prompt = std::move(prompt.tokens),
                              .sampling = Resolve(request.sampling, defaults, tokens_left),
                              .n = request.n,
                              .scope = {tenant.salt, prompt.public_tokens},
                              .reuse_prefix = request.reuse_prefix};
  if (!request.sampling.seed) generate.sampling.seed = DrawSeed();
  return generate;
}

absl::StatusOr<std::vector<TokenId>> Gateway::State::Tokenize(const std::string& model,
                                                              const std::string& text) {
  const std::shared_ptr<const ModelTable> models = backend.models();
  ASSIGN_OR_RETURN(const ModelEntry* entry, FindModel(*models, model));
  ASSIGN_OR_RETURN(std::shared_ptr<const ModelText> model_text, TextOf(entry->served));
  return model_text->Tokenize(text, entry->served.context_tokens);
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

std::shared_ptr<Gateway::Call> Gateway::Start(CompletionRequest request, Tenant tenant,
                                              absl::Time deadline, ChunkFn on_chunk,
                                              DoneFn on_done) {
  auto call = std::make_shared<Call>();
  const size_t bytes = BytesOf(request.prompt);
  const absl::Status posted = state_->Post(bytes, [state = state_.get(), call,
                                                   request = std::move(request),
                                                   tenant = std::move(tenant), deadline,
                                                   on_chunk = std::move(on_chunk),
                                                   on_done]() mutable {
    if (call->cancelled()) return on_done(absl::CancelledError("cancelled by the caller"));
    if (absl::Now() >= deadline) {
      return on_done(absl::DeadlineExceededError("the deadline passed while the request waited"));
    }
    absl::StatusOr<GenerateRequest> generate = state->Prepare(std::move(request), tenant);
    if (!generate.ok()) return on_done(generate.status());
    generate->deadline = deadline;
    call->SetBackendCancel(state->backend.Start(*std::move(generate), on_chunk, on_done));
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

std::shared_ptr<const ModelTable> Gateway::models() const { return state_->backend.models(); }

bool Gateway::uses_model_defaults() const { return state_->options.use_model_defaults; }

}  // namespace chorale
