#include "services/router/counted_backend.h"

#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace chorale {

struct CountedBackend::Counts {
  std::mutex mutex;
  // All below under mutex.
  int64_t running = 0;
  std::map<absl::StatusCode, int64_t> ended;
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t transferred_tokens = 0;
  int64_t completion_tokens = 0;

  void Add(const Usage& usage) {
    std::lock_guard lock(mutex);
    prompt_tokens += usage.prompt_tokens;
    cached_tokens += usage.cached_tokens;
    transferred_tokens += usage.transferred_tokens;
    completion_tokens += usage.completion_tokens;
  }
};

CountedBackend::CountedBackend(Backend& backend)
    : backend_(backend), counts_(std::make_shared<Counts>()) {}

std::function<void()> CountedBackend::Start(GenerateRequest request, ChunkFn on_chunk,
                                            DoneFn on_done) {
  {
    std::lock_guard lock(counts_->mutex);
    ++counts_->running;
  }
  return backend_.Start(
      std::move(request),
      [counts = counts_, on_chunk = std::move(on_chunk)](CompletionChunk chunk) {
        if (chunk.usage) counts->Add(*chunk.usage);
        on_chunk(std::move(chunk));
      },
      [counts = counts_, on_done = std::move(on_done)](absl::Status status) {
        {
          std::lock_guard lock(counts->mutex);
          --counts->running;
          ++counts->ended[status.code()];
        }
        on_done(std::move(status));
      });
}

void CountedBackend::Describe(MetricSet& metrics) const {
  std::lock_guard lock(counts_->mutex);
  metrics.Gauge("chorale_requests_running", "Generations under way.", counts_->running);
  for (const auto& [code, count] : counts_->ended) {
    metrics.Counter("chorale_requests_total", "Generations that have ended, by gRPC's code.", count,
                    {{"code", absl::StatusCodeToString(code)}});
  }
  const std::pair<const char*, int64_t> tokens[] = {{"prompt", counts_->prompt_tokens},
                                                    {"cached", counts_->cached_tokens},
                                                    {"transferred", counts_->transferred_tokens},
                                                    {"completion", counts_->completion_tokens}};
  for (const auto& [kind, count] : tokens) {
    metrics.Counter("chorale_requests_tokens_total",
                    "Tokens of generations; cached and transferred are parts of prompt.", count,
                    {{"kind", kind}});
  }
}

}  // namespace chorale
