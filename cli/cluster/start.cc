#include "cli/cluster/start.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "cli/client.h"
#include "cli/interrupt.h"

namespace chorale::cli {
namespace {

constexpr absl::Duration kPollInterval = absl::Milliseconds(50);
constexpr absl::Duration kCallTimeout = absl::Seconds(5);
// Three blocks of 16 tokens, so that at least two whole ones are handed over.
constexpr int kCanaryTokens = 48;

// One start under way: its deadline, and whether it may go on.
struct Progress {
  ProgressLine& line;
  absl::Time begin = absl::Now();
  absl::Time deadline;

  absl::Status Continue(const Launch& launch) const {
    if (TakeInterrupt()) return absl::CancelledError("interrupted");
    RETURN_IF_ERROR(launch.CheckRunning());
    if (absl::Now() < deadline) return absl::OkStatus();
    return absl::DeadlineExceededError(
        absl::StrFormat("the cluster is not ready after %s: see its logs, or allow more with "
                        "--timeout-seconds",
                        Readable(absl::Now() - begin)));
  }
};

absl::Status AwaitWorkers(const Launch& launch, Progress& progress) {
  const ClusterRecord& cluster = launch.cluster();
  const int expected = cluster.prefill_workers + cluster.decode_workers;
  while (true) {
    RETURN_IF_ERROR(progress.Continue(launch));
    const auto table = GetRouting(cluster.Find("orchestrator")->address, kCallTimeout);
    double loaded = 0;
    int ready = 0;
    if (table.ok()) {
      for (const v1::WorkerReport& worker : table->workers()) {
        loaded += worker.ready() ? 1 : std::clamp(worker.load_progress(), 0.0, 1.0);
        ready += worker.ready();
      }
    }
    progress.line.Show(loaded / expected,
                       absl::StrFormat("loading weights: %d of %d workers ready", ready, expected));
    if (ready == expected) return absl::OkStatus();
    absl::SleepFor(kPollInterval);
  }
}

// Returns when the router knows all workers, so that the canary takes the path of every request:
// how many tokens a request may have.
absl::StatusOr<int> AwaitRouter(const Launch& launch, RouterClient& router, Progress& progress) {
  const ClusterRecord& cluster = launch.cluster();
  progress.line.Show(1, "waiting for the router");
  while (true) {
    RETURN_IF_ERROR(progress.Continue(launch));
    const auto models = router.ListModels(kCallTimeout);
    if (models.ok()) {
      for (const auto& model : models->models()) {
        if (model.name() == cluster.model && model.prefill_workers() == cluster.prefill_workers &&
            model.decode_workers() == cluster.decode_workers) {
          return model.context_tokens();
        }
      }
    }
    absl::SleepFor(kPollInterval);
  }
}

absl::StatusOr<v1::Usage> SendCanary(const Launch& launch, RouterClient& router, int context_tokens,
                                     Progress& progress) {
  progress.line.Show(1, "sending one token through prefill, hand-off and decode");
  v1::GenerateRequest request;
  request.set_model(launch.cluster().model);
  request.set_no_prefix_reuse(true);
  const int tokens = std::min(kCanaryTokens, context_tokens - 1);
  for (int i = 0; i < tokens; ++i) request.mutable_token_ids()->add_ids(i % 2);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_max_tokens(1);
  request.mutable_sampling()->set_ignore_eos(true);
  v1::Usage usage;
  const absl::Status status = router.Generate(request, progress.deadline - absl::Now(),
                                              [&](const v1::GenerateChunk& chunk) {
                                                if (chunk.has_usage()) usage = chunk.usage();
                                              });
  if (!status.ok()) {
    return absl::Status(status.code(), absl::StrCat("the canary, a request for one token, failed: ",
                                                    status.message()));
  }
  if (usage.completion_tokens() != 1) {
    return absl::InternalError(
        absl::StrFormat("the canary asked for 1 token and got %d", usage.completion_tokens()));
  }
  // A short context has no prompt that is worth a hand-off.
  const bool hands_over = tokens == kCanaryTokens && launch.cluster().prefill_workers > 0;
  if (hands_over && usage.transferred_tokens() == 0) {
    return absl::InternalError(
        "the canary's K/V was not handed over by a prefill worker: see the logs of the prefill and "
        "decode workers");
  }
  return usage;
}

}  // namespace

absl::StatusOr<Started> StartCluster(Launch& launch, absl::Duration timeout, ProgressLine& line) {
  Progress progress{.line = line};
  progress.deadline = progress.begin + timeout;
  progress.line.Show(0, "starting processes");
  RETURN_IF_ERROR(launch.Start(progress.deadline, TakeInterrupt));
  RETURN_IF_ERROR(AwaitWorkers(launch, progress));
  Started started = {.loading = absl::Now() - progress.begin};
  RouterClient router(launch.cluster().Find("router")->address);
  ASSIGN_OR_RETURN(const int context_tokens, AwaitRouter(launch, router, progress));
  const absl::Time canary_begin = absl::Now();
  ASSIGN_OR_RETURN(started.canary_usage, SendCanary(launch, router, context_tokens, progress));
  started.canary = absl::Now() - canary_begin;
  started.total = absl::Now() - progress.begin;
  return started;
}

}  // namespace chorale::cli
