// `chorale up`: a cluster on this machine, ready when a canary has passed through all of it.
#include <cstdio>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "cli/client.h"
#include "cli/cluster/launch.h"
#include "cli/cluster/start.h"
#include "cli/cluster/stop.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/output.h"

namespace chorale::cli {
namespace {

// A cluster that fails to start has no calls to drain.
constexpr absl::Duration kFailedStartGrace = absl::Seconds(3);

struct UpOptions {
  ClusterFlags cluster;
  LaunchOptions launch;
  int timeout_s = 600;
  bool json = false;
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

void PrintJson(const UpOptions& options, const ClusterRecord& cluster, const Started& started) {
  Json processes = Json::array();
  for (const ProcessRecord& process : cluster.processes) {
    processes.push_back({{"name", process.name},
                         {"pid", process.identity.pid},
                         {"address", process.address},
                         {"metrics", process.metrics},
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
      "Model %s is served by %d prefill and %d decode workers%s after %s (weights %s; "
      "canary %s, %d tokens handed over).\n\n",
      cluster.model, cluster.prefill_workers, cluster.decode_workers,
      options.launch.stores == 0 ? "" : absl::StrFormat(" with %d stores", options.launch.stores),
      Readable(started.total), Readable(started.loading), Readable(started.canary),
      started.canary_usage.transferred_tokens());
  absl::PrintF("  HTTP  http://%s/v1\n  gRPC  %s\n  logs  %s/logs\n\n", router.http, router.address,
               run_dir);
  absl::PrintF(
      "Try:\n"
      "  curl -N http://%s/v1/completions -H 'Content-Type: application/json' \\\n"
      "    -d '{\"model\": \"%s\", \"prompt\": \"def fibonacci(n):\", \"max_tokens\": 48, "
      "\"stream\": true}'\n"
      "  chorale generate%s --model %s --prompt 'def fibonacci(n):' --max-tokens 48\n"
      "  chorale down%s\n",
      router.http, cluster.model, flag, cluster.model, flag);
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
  absl::StatusOr<Started> started = absl::UnknownError("");
  {
    ProgressLine line;
    started = StartCluster(launch, absl::Seconds(options.timeout_s), line);
  }
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
  CLI::Option* adapter =
      up->add_option("--adapter", launch.adapters, "NAME=FOLDER of a PEFT adapter; repeatable");
  up->add_option("--models", launch.models,
                 "a chorale.yaml, or its folder: many models on one base")
      ->excludes(model)
      ->excludes(adapter);
  up->add_option("--prefill", launch.prefill, "prefill workers")
      ->capture_default_str()
      ->check(CLI::Range(0, 256));
  up->add_option("--decode", launch.decode, "decode workers")
      ->capture_default_str()
      ->check(CLI::Range(1, 256));
  up->add_option("--stores", launch.stores,
                 "processes that keep K/V blocks for all workers, in memory and on disk")
      ->capture_default_str()
      ->check(CLI::Range(0, 64));
  const auto mib = CLI::Range(int64_t{0}, int64_t{1} << 30);
  up->add_option("--store-dram-mib", launch.store_dram_mib, "memory of each store")
      ->capture_default_str()
      ->check(mib);
  up->add_option("--store-disk-mib", launch.store_disk_mib,
                 "disk of each store, in the run folder; 0: none")
      ->capture_default_str()
      ->check(mib);
  up->add_option(
      "--redis", launch.redis,
      "redis://HOST:PORT: keeps blocks behind the stores, and tells routers where others are");
  up->add_flag("--metrics", launch.metrics,
               "for Prometheus: each process serves /metrics on a port that `status` shows");
  up->add_option("--http", launch.http, "HOST:PORT of the OpenAI-compatible API")
      ->capture_default_str();
  up->add_option("--grpc", launch.grpc, "HOST:PORT of the gRPC API")->capture_default_str();
  up->add_flag("--tcp", launch.tcp, "TCP between the processes; default: unix sockets");
  up->add_option("--generation-config", launch.generation_config,
                 "unset sampling fields: model (its generation_config.json) or off")
      ->capture_default_str()
      ->check(CLI::IsMember({"model", "off"}));
  AddRunDirFlag(*up, options->cluster);
  up->add_option("--timeout-seconds", options->timeout_s, "give up when not ready by then")
      ->capture_default_str()
      ->check(CLI::Range(1, 86'400));
  up->add_flag("--json", options->json, "print the result as one JSON object");
  // The workers check these and say what is wrong with them.
  for (const char* flag :
       {"--kernels", "--dtype", "--kv", "--threads", "--blocks", "--kv-mib", "--step-tokens",
        "--chunk-tokens", "--sequences", "--waiting", "--cache-dir", "--store-replicas"}) {
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
