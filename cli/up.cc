// `chorale up`: a cluster on this machine, ready when a canary has passed through all of it.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/launch.h"
#include "cli/output.h"
#include "cli/stop.h"

namespace chorale::cli {
namespace {

constexpr absl::Duration kPollInterval = absl::Milliseconds(50);
constexpr absl::Duration kCallTimeout = absl::Seconds(5);
// A cluster that fails to start has no calls to drain.
constexpr absl::Duration kFailedStartGrace = absl::Seconds(3);
// Three blocks of 16 tokens, so that at least two whole ones are handed over.
constexpr int kCanaryTokens = 48;

struct UpOptions {
  ClusterFlags cluster;
  LaunchOptions launch;
  int timeout_s = 600;
  bool json = false;
};

// What a successful start took.
struct Started {
  absl::Duration loading;
  absl::Duration canary;
  absl::Duration total;
  v1::Usage canary_usage;
};

// One start under way: its deadline, and whether it may go on.
struct Progress {
  ProgressLine line;
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

// Refuses to start over a cluster that runs; clears away one that has ended.
absl::Status ClearRunDir(const std::string& run_dir) {
  const absl::StatusOr<ClusterRecord> old = ReadCluster(run_dir);
  if (absl::IsNotFound(old.status())) return absl::OkStatus();
  RETURN_IF_ERROR(old.status());
  if (const std::vector<std::string> running = Running(*old); !running.empty()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("a cluster runs in %s already (%d of %d processes): end it with `chorale "
                        "down`, or start another with --run-dir, --http and --grpc",
                        run_dir, running.size(), old->processes.size()));
  }
  RemoveTraces(run_dir, *old);
  return absl::OkStatus();
}

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

// Returns when the router knows all workers, so that the canary takes the path of every request.
absl::Status AwaitRouter(const Launch& launch, RouterClient& router, Progress& progress) {
  const ClusterRecord& cluster = launch.cluster();
  progress.line.Show(1, "waiting for the router");
  while (true) {
    RETURN_IF_ERROR(progress.Continue(launch));
    const auto models = router.ListModels(kCallTimeout);
    if (models.ok()) {
      for (const auto& model : models->models()) {
        if (model.name() == cluster.model && model.prefill_workers() == cluster.prefill_workers &&
            model.decode_workers() == cluster.decode_workers) {
          return absl::OkStatus();
        }
      }
    }
    absl::SleepFor(kPollInterval);
  }
}

absl::StatusOr<v1::Usage> SendCanary(const Launch& launch, RouterClient& router,
                                     Progress& progress) {
  progress.line.Show(1, "sending one token through prefill, hand-off and decode");
  v1::GenerateRequest request;
  request.set_model(launch.cluster().model);
  request.set_no_prefix_reuse(true);
  for (int i = 0; i < kCanaryTokens; ++i) request.mutable_token_ids()->add_ids(1 + i);
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
  if (launch.cluster().prefill_workers > 0 && usage.transferred_tokens() == 0) {
    return absl::InternalError(
        "the canary's K/V was not handed over by a prefill worker: see the logs of the prefill and "
        "decode workers");
  }
  return usage;
}

absl::StatusOr<Started> StartCluster(const UpOptions& options, Launch& launch) {
  Progress progress;
  progress.deadline = progress.begin + absl::Seconds(options.timeout_s);
  progress.line.Show(0, "starting processes");
  RETURN_IF_ERROR(launch.Start(progress.deadline, TakeInterrupt));
  RETURN_IF_ERROR(AwaitWorkers(launch, progress));
  Started started = {.loading = absl::Now() - progress.begin};
  RouterClient router(launch.cluster().Find("router")->address);
  RETURN_IF_ERROR(AwaitRouter(launch, router, progress));
  const absl::Time canary_begin = absl::Now();
  ASSIGN_OR_RETURN(started.canary_usage, SendCanary(launch, router, progress));
  started.canary = absl::Now() - canary_begin;
  started.total = absl::Now() - progress.begin;
  return started;
}

void PrintJson(const UpOptions& options, const ClusterRecord& cluster, const Started& started) {
  Json processes = Json::array();
  for (const ProcessRecord& process : cluster.processes) {
    processes.push_back({{"name", process.name},
                         {"pid", process.identity.pid},
                         {"address", process.address},
                         {"log", process.log}});
  }
  const ProcessRecord& router = *cluster.Find("router");
  const Json json = {{"run_dir", options.launch.run_dir},
                     {"model", cluster.model},
                     {"http", "http://" + router.http},
                     {"grpc", router.address},
                     {"processes", std::move(processes)},
                     {"loading_ms", absl::ToDoubleMilliseconds(started.loading)},
                     {"canary_ms", absl::ToDoubleMilliseconds(started.canary)},
                     {"canary_transferred_tokens", started.canary_usage.transferred_tokens()},
                     {"total_ms", absl::ToDoubleMilliseconds(started.total)}};
  absl::PrintF("%s\n", DumpJson(json));
}

void PrintText(const UpOptions& options, const ClusterRecord& cluster, const Started& started) {
  const ProcessRecord& router = *cluster.Find("router");
  const std::string& run_dir = options.launch.run_dir;
  const std::string flag = run_dir == ResolveRunDir("") ? "" : " --run-dir " + run_dir;
  absl::PrintF(
      "Model %s is served by %d prefill and %d decode workers after %s (weights %s; "
      "canary %s, %d tokens handed over).\n\n",
      cluster.model, cluster.prefill_workers, cluster.decode_workers, Readable(started.total),
      Readable(started.loading), Readable(started.canary),
      started.canary_usage.transferred_tokens());
  absl::PrintF("  HTTP  http://%s/v1\n  gRPC  %s\n  logs  %s/logs\n\n", router.http, router.address,
               run_dir);
  absl::PrintF(
      "Try:\n"
      "  curl -N http://%s/v1/completions -H 'Content-Type: application/json' \\\n"
      "    -d '{\"model\": \"%s\", \"prompt\": \"def fibonacci(n):\", \"max_tokens\": 48, "
      "\"stream\": true}'\n"
      "  chorale generate%s --prompt 'def fibonacci(n):' --max-tokens 48\n"
      "  chorale down%s\n",
      router.http, cluster.model, flag, flag);
}

absl::Status Up(UpOptions& options) {
  LaunchOptions& launch_options = options.launch;
  launch_options.run_dir = ResolveRunDir(options.cluster.run_dir);
  launch_options.bin_dir = OwnBinDir();
  if (launch_options.model.empty() && launch_options.models.empty()) {
    ASSIGN_OR_RETURN(const std::string folder, FindShippedModels(launch_options.bin_dir, "base"));
    launch_options.model = "base=" + folder;
  }
  ASSIGN_OR_RETURN(const RunDirLock lock, RunDirLock::Take(launch_options.run_dir));
  RETURN_IF_ERROR(ClearRunDir(launch_options.run_dir));
  RETURN_IF_ERROR(CheckLaunch(launch_options));

  Launch launch(launch_options);
  const absl::StatusOr<Started> started = StartCluster(options, launch);
  if (!started.ok()) {
    StopProcesses(launch.cluster(), kFailedStartGrace);
    RemoveTraces(launch_options.run_dir, launch.cluster());
    return started.status();
  }
  if (options.json) {
    PrintJson(options, launch.cluster(), *started);
  } else {
    PrintText(options, launch.cluster(), *started);
  }
  return absl::OkStatus();
}

}  // namespace

void AddUp(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<UpOptions>();
  LaunchOptions& launch = options->launch;
  CLI::App* up = app.add_subcommand("up", "start a cluster on this machine");
  CLI::Option* model = up->add_option("--model", launch.model,
                                      "NAME=FOLDER of a checkpoint; default: the shipped base");
  up->add_option("--adapter", launch.adapters, "NAME=FOLDER of a PEFT adapter; repeatable");
  up->add_option("--models", launch.models,
                 "a chorale.yaml, or its folder: many models on one base")
      ->excludes(model);
  up->add_option("--prefill", launch.prefill, "prefill workers")
      ->capture_default_str()
      ->check(CLI::Range(0, 256));
  up->add_option("--decode", launch.decode, "decode workers")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  up->add_option("--http", launch.http, "HOST:PORT of the OpenAI-compatible API")
      ->capture_default_str();
  up->add_option("--grpc", launch.grpc, "HOST:PORT of the gRPC API")->capture_default_str();
  up->add_flag("--tcp", launch.tcp, "TCP between the processes; default: unix sockets");
  AddRunDirFlag(*up, options->cluster);
  up->add_option("--timeout-seconds", options->timeout_s, "give up when not ready by then")
      ->capture_default_str()
      ->check(CLI::Range(1, 86'400));
  up->add_flag("--json", options->json, "print the result as one JSON object");
  // The workers check these and say what is wrong with them.
  for (const char* flag : {"--kernels", "--dtype", "--threads", "--blocks", "--kv-mib",
                           "--step-tokens", "--chunk-tokens", "--sequences", "--waiting"}) {
    up->add_option_function<std::string>(
          flag,
          [options, flag](const std::string& value) {
            options->launch.worker_flags.insert(options->launch.worker_flags.end(), {flag, value});
          },
          "as for chorale-decode --help")
        ->group("Passed on to every worker");
  }
  up->footer("Example: chorale up --prefill 1 --decode 2 --kernels reference");
  up->callback([options, &chosen] {
    chosen = [options] {
      BlockInterrupts();
      const absl::Status status = Up(*options);
      return status.ok() ? 0 : Fail(status);
    };
  });
}

}  // namespace chorale::cli
