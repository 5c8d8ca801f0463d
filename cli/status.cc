// `chorale status`: the processes of a cluster and what its workers say of themselves.
#include <map>
#include <memory>
#include <utility>

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "cli/cache_client.h"
#include "cli/client.h"
#include "cli/cluster/run_dir.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/output.h"

namespace chorale::cli {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(2);
constexpr absl::Duration kWatchInterval = absl::Seconds(1);

struct StatusOptions {
  ClusterFlags cluster;
  bool json = false;
  bool watch = false;
};

struct Snapshot {
  std::string run_dir;
  ClusterRecord cluster;
  absl::StatusOr<v1::RoutingTable> workers;
  WorkerStatuses counters;  // of the workers that answer, by id
  std::map<std::string, absl::StatusOr<v1::StatBlocksReply>> stores;  // by name

  // Every process runs and every worker takes requests.
  bool healthy() const {
    if (Running(cluster).size() != cluster.processes.size() || !workers.ok()) return false;
    int ready = 0;
    for (const v1::WorkerReport& worker : workers->workers()) ready += worker.ready();
    return ready >= cluster.prefill_workers + cluster.decode_workers;
  }
};

const char* NameOf(ProcessState state) {
  switch (state) {
    case ProcessState::kRunning:
      return "running";
    case ProcessState::kEnded:
      return "ended";
    case ProcessState::kStranger:
      return "ended (pid reused)";
  }
  return "";
}

const char* NameOf(v1::Role role) { return role == v1::ROLE_PREFILL ? "prefill" : "decode"; }

const char* StateOf(const v1::WorkerReport& worker) {
  if (worker.draining()) return "draining";
  return worker.ready() ? "serving" : "loading";
}

std::vector<std::string> ModelNames(const v1::WorkerReport& worker) {
  std::vector<std::string> names;
  for (const v1::ServedModel& model : worker.models()) names.push_back(model.name());
  return names;
}

absl::StatusOr<Snapshot> Look(const StatusOptions& options) {
  Snapshot snapshot;
  snapshot.run_dir = ResolveRunDir(options.cluster.run_dir);
  ASSIGN_OR_RETURN(snapshot.cluster, ReadCluster(snapshot.run_dir));
  const ProcessRecord* orchestrator = snapshot.cluster.Find("orchestrator");
  if (orchestrator == nullptr || orchestrator->address.empty() ||
      StateOf(snapshot.cluster, *orchestrator) != ProcessState::kRunning) {
    snapshot.workers = absl::UnavailableError("the orchestrator is not running");
  } else {
    snapshot.workers = GetRouting(orchestrator->address, kCallTimeout);
  }
  for (const ProcessRecord& process : snapshot.cluster.processes) {
    if (!IsStore(process)) continue;
    const bool running = StateOf(snapshot.cluster, process) == ProcessState::kRunning;
    snapshot.stores.emplace(
        process.name,
        StatBlocks({.name = process.name, .address = process.address, .running = running}));
  }
  if (!snapshot.workers.ok()) return snapshot;
  for (const v1::WorkerReport& worker : snapshot.workers->workers()) {
    absl::StatusOr<v1::WorkerStatusResponse> status =
        GetWorkerStatus(worker.address(), kCallTimeout);
    if (status.ok()) snapshot.counters[worker.worker_id()] = *std::move(status);
  }
  return snapshot;
}

// What the stores hold; "" when there is none.
std::string StoresText(const Snapshot& snapshot) {
  std::vector<std::vector<std::string>> rows = {{"STORE", "TIER", "BLOCKS", "SIZE", "OF", "STATE"}};
  for (const auto& [name, stat] : snapshot.stores) {
    if (!stat.ok()) {
      rows.push_back({name, "-", "-", "-", "-", std::string(stat.status().message())});
      continue;
    }
    for (const v1::TierStat& tier : stat->tiers()) {
      std::vector<std::string>& row = rows.emplace_back(TierCells(tier));
      row.insert(row.begin(), name);
      row.push_back(tier.state());
    }
  }
  return rows.size() == 1 ? "" : "\n" + Table(rows);
}

// A counter or gauge summed over the workers.
int64_t Sum(const Snapshot& snapshot, const std::string& name) {
  int64_t sum = 0;
  for (const auto& [id, status] : snapshot.counters) {
    if (const auto it = status.engine().find(name); it != status.engine().end()) sum += it->second;
  }
  return sum;
}

// What was prefilled, and what sharing saved.
std::string SharingText(const Snapshot& snapshot) {
  std::vector<std::vector<std::string>> rows = {{"MODEL", "PROMPT TOKENS: PREFILLED", "REUSED",
                                                 "REUSED OF OTHERS", "RECEIVED", "DECODE ROWS"}};
  for (const auto& [name, counters] : CountersByModel(snapshot.counters)) {
    rows.push_back({name, absl::StrCat(counters.prompt_tokens_computed()),
                    absl::StrCat(counters.prompt_tokens_reused_own()),
                    absl::StrCat(counters.prompt_tokens_reused_shared()),
                    absl::StrCat(counters.prompt_tokens_received()),
                    absl::StrCat(counters.decode_rows())});
  }
  if (rows.size() == 1) return "";
  return absl::StrFormat(
      "\n%s\n%.1f MiB of K/V shared between models; %d of %d decode passes had rows of several "
      "models\n",
      Table(rows), Sum(snapshot, "kv_bytes_shared") / 1048576.0,
      Sum(snapshot, "decode_passes_mixed"), Sum(snapshot, "decode_passes"));
}

std::string ToText(const Snapshot& snapshot) {
  std::vector<std::vector<std::string>> processes = {{"PROCESS", "PID", "STATE", "ADDRESS"}};
  for (const ProcessRecord& process : snapshot.cluster.processes) {
    std::string address = process.address;
    if (!process.http.empty()) absl::StrAppend(&address, " http://", process.http);
    if (!process.metrics.empty()) {
      absl::StrAppend(&address, " http://", process.metrics, "/metrics");
    }
    processes.push_back({process.name, absl::StrCat(process.identity.pid),
                         NameOf(StateOf(snapshot.cluster, process)), address});
  }
  std::string text = absl::StrFormat(
      "Cluster in %s, started %s ago, model %s\n\n%s\n", snapshot.run_dir,
      Readable(absl::Now() - absl::FromUnixSeconds(snapshot.cluster.started_unix_s)),
      snapshot.cluster.model, Table(processes));
  if (!snapshot.workers.ok()) {
    return absl::StrCat(text, "No word of the workers: ", snapshot.workers.status().message(),
                        "\n");
  }
  std::vector<std::vector<std::string>> workers = {
      {"WORKER", "ROLE", "STATE", "LOADED", "RUNNING", "WAITING", "BLOCKS FREE", "MODELS"}};
  for (const v1::WorkerReport& worker : snapshot.workers->workers()) {
    workers.push_back({worker.worker_id(), NameOf(worker.role()), StateOf(worker),
                       absl::StrFormat("%.0f%%", 100 * worker.load_progress()),
                       absl::StrCat(worker.requests_running()),
                       absl::StrCat(worker.requests_waiting()),
                       absl::StrCat(worker.blocks_free(), " of ", worker.blocks_total()),
                       absl::StrJoin(ModelNames(worker), " ")});
  }
  return absl::StrCat(text, Table(workers), StoresText(snapshot), SharingText(snapshot));
}

Json ToJson(const Snapshot& snapshot) {
  Json json = {{"run_dir", snapshot.run_dir},
               {"model", snapshot.cluster.model},
               {"started_unix_s", snapshot.cluster.started_unix_s},
               {"healthy", snapshot.healthy()},
               {"processes", Json::array()},
               {"workers", Json::array()}};
  for (const ProcessRecord& process : snapshot.cluster.processes) {
    json["processes"].push_back({{"name", process.name},
                                 {"pid", process.identity.pid},
                                 {"state", NameOf(StateOf(snapshot.cluster, process))},
                                 {"address", process.address},
                                 {"http", process.http},
                                 {"metrics", process.metrics},
                                 {"log", process.log}});
  }
  if (!snapshot.workers.ok()) {
    json["error"] = std::string(snapshot.workers.status().message());
    return json;
  }
  for (const v1::WorkerReport& worker : snapshot.workers->workers()) {
    json["workers"].push_back({{"worker_id", worker.worker_id()},
                               {"role", NameOf(worker.role())},
                               {"state", StateOf(worker)},
                               {"address", worker.address()},
                               {"pid", worker.pid()},
                               {"load_progress", worker.load_progress()},
                               {"requests_running", worker.requests_running()},
                               {"requests_waiting", worker.requests_waiting()},
                               {"blocks_free", worker.blocks_free()},
                               {"blocks_total", worker.blocks_total()},
                               {"models", ModelNames(worker)}});
  }
  json["models"] = Json::object();
  for (const auto& [name, counters] : CountersByModel(snapshot.counters)) {
    json["models"][name] = {{"prompt_tokens_prefilled", counters.prompt_tokens_computed()},
                            {"prompt_tokens_reused_own", counters.prompt_tokens_reused_own()},
                            {"prompt_tokens_reused_shared", counters.prompt_tokens_reused_shared()},
                            {"prompt_tokens_received", counters.prompt_tokens_received()},
                            {"decode_rows", counters.decode_rows()}};
  }
  for (const char* name : {"kv_bytes_shared", "decode_passes", "decode_passes_mixed"}) {
    json[name] = Sum(snapshot, name);
  }
  return json;
}

absl::StatusOr<bool> ShowOnce(const StatusOptions& options) {
  ASSIGN_OR_RETURN(const Snapshot snapshot, Look(options));
  const std::string text = options.json ? DumpJson(ToJson(snapshot)) + "\n" : ToText(snapshot);
  const bool redraw = options.watch && !options.json && isatty(STDOUT_FILENO);
  absl::PrintF("%s%s", redraw ? "\033[H\033[2J" : "", text);
  fflush(stdout);
  return snapshot.healthy();
}

int Status(const StatusOptions& options) {
  while (true) {
    const absl::StatusOr<bool> healthy = ShowOnce(options);
    if (!healthy.ok()) return Fail(healthy.status());
    if (!options.watch) return *healthy ? 0 : kExitFailed;
    for (const absl::Time next = absl::Now() + kWatchInterval; absl::Now() < next;) {
      if (TakeInterrupt()) return 0;
      absl::SleepFor(absl::Milliseconds(20));
    }
  }
}

}  // namespace

void AddStatus(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<StatusOptions>();
  CLI::App* status = app.add_subcommand("status", "show processes, workers and their load");
  AddRunDirFlag(*status, options->cluster);
  status->add_flag("--json", options->json, "print one JSON object");
  status->add_flag("--watch", options->watch, "show again every second until Ctrl-C");
  status->footer(
      "Exit code 0 when every process runs and every worker serves, else 1.\n"
      "Example: chorale status --watch");
  status->callback([options, &chosen] {
    chosen = [options] {
      if (options->watch) BlockInterrupts();
      return Status(*options);
    };
  });
}

}  // namespace chorale::cli
