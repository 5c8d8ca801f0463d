// `chorale demo sharing`: the same conversation of several models, with sharing off and on.
//
// Several sessions run at once. In each, the models take turns on one context that grows by what
// each of them says and by an observation after it, as agents' contexts do. With sharing off the
// models are ordinary fine-tunes (mode standard): each prefills and keeps the whole context for
// itself. With sharing on they are readers of one cache (mode icarus).
#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/json.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "cli/client.h"
#include "cli/cluster/start.h"
#include "cli/cluster/stop.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "model/catalog.h"
#include "model/checkpoint/config.h"

namespace chorale::cli {
namespace {

constexpr absl::Duration kStartTimeout = absl::Minutes(5);
constexpr absl::Duration kTurnTimeout = absl::Minutes(5);
constexpr absl::Duration kCallTimeout = absl::Seconds(5);
constexpr absl::Duration kStopGrace = absl::Seconds(5);
constexpr int kModelsMax = 4;

struct DemoOptions {
  std::string models;
  int sessions = 4;
  int turns = 8;
  int context_tokens = 2000;
  int output_tokens = 32;
  int observation_tokens = 24;
  bool json = false;
};

// What one side of the comparison did and took.
struct Side {
  std::vector<std::string> models;
  int64_t prefilled = 0;
  int64_t reused_own = 0;     // of prompts, found where they were written by the same model
  int64_t reused_shared = 0;  // ... by another one
  int64_t kv_bytes_written = 0;
  int64_t tokens = 0;
  std::vector<double> first_token_ms;
  double seconds = 0;

  double tokens_per_second() const { return tokens / seconds; }
  double first_token_ms_p95() const {
    std::vector<double> sorted = first_token_ms;
    std::sort(sorted.begin(), sorted.end());
    return sorted.empty() ? 0 : sorted[(sorted.size() - 1) * 95 / 100];
  }
};

// The conversations of one side, a thread for each session.
class Conversations {
 public:
  Conversations(const DemoOptions& options, int vocab, const std::string& router, Side& side,
                ProgressLine& line)
      : options_(options), vocab_(vocab), router_(router), side_(side), line_(line) {}

  absl::Status Run() {
    const absl::Time begin = absl::Now();
    std::vector<std::thread> threads;
    for (int session = 0; session < options_.sessions; ++session) {
      threads.emplace_back([this, session] {
        absl::Status status = Converse(session);
        std::lock_guard lock(mutex_);
        if (status_.ok()) status_ = std::move(status);
      });
    }
    for (std::thread& thread : threads) thread.join();
    side_.seconds = absl::ToDoubleSeconds(absl::Now() - begin);
    return status_;
  }

 private:
  void AddTokens(int session, int count, v1::TokenIds& context) const {
    for (int i = 0; i < count; ++i) {
      const uint64_t bits = RandomBits(1, static_cast<uint64_t>(session), context.ids_size());
      context.add_ids(1 + static_cast<int>(bits % static_cast<uint64_t>(vocab_ - 1)));
    }
  }

  absl::Status Converse(int session) {
    RouterClient client(router_);
    v1::TokenIds context;
    AddTokens(session, options_.context_tokens, context);
    for (int turn = 0; turn < options_.turns; ++turn) {
      if (TakeInterrupt()) return absl::CancelledError("interrupted");
      {
        std::lock_guard lock(mutex_);
        if (!status_.ok()) return status_;  // another session's end is the end of all
      }
      RETURN_IF_ERROR(Turn(client, side_.models[turn % side_.models.size()], context));
      AddTokens(session, options_.observation_tokens, context);
    }
    return absl::OkStatus();
  }

  absl::Status Turn(RouterClient& client, const std::string& model, v1::TokenIds& context) {
    v1::GenerateRequest request;
    request.set_model(model);
    *request.mutable_token_ids() = context;
    request.mutable_sampling()->set_temperature(0);
    request.mutable_sampling()->set_max_tokens(options_.output_tokens);
    request.mutable_sampling()->set_ignore_eos(true);
    const absl::Time begin = absl::Now();
    double first_token_ms = -1;
    RETURN_IF_ERROR(client.Generate(request, kTurnTimeout, [&](const v1::GenerateChunk& chunk) {
      if (first_token_ms < 0 && chunk.token_ids_size() > 0) {
        first_token_ms = absl::ToDoubleMilliseconds(absl::Now() - begin);
      }
      for (int token : chunk.token_ids()) context.add_ids(token);
    }));
    std::lock_guard lock(mutex_);
    side_.tokens += options_.output_tokens;
    side_.first_token_ms.push_back(first_token_ms);
    const double done =
        static_cast<double>(side_.first_token_ms.size()) / (options_.sessions * options_.turns);
    line_.Show(done, absl::StrFormat("%s and %d others in turn", side_.models[0],
                                     side_.models.size() - 1));
    return absl::OkStatus();
  }

  const DemoOptions& options_;
  const int vocab_;
  const std::string router_;
  std::mutex mutex_;
  Side& side_;           // under mutex_ while threads run
  ProgressLine& line_;   // under mutex_
  absl::Status status_;  // under mutex_
};

// What the workers counted for the models of a side.
absl::Status Count(const std::string& orchestrator, Side& side) {
  ASSIGN_OR_RETURN(const v1::RoutingTable table, GetRouting(orchestrator, kCallTimeout));
  WorkerStatuses workers;
  int64_t token_bytes = 0;
  for (const v1::WorkerReport& worker : table.workers()) {
    v1::WorkerStatusResponse& status = workers[worker.worker_id()];
    ASSIGN_OR_RETURN(status, GetWorkerStatus(worker.address(), kCallTimeout));
    token_bytes = status.engine().at("block_bytes") / kernels::kBlockTokens;  // of all alike
  }
  const std::map<std::string, v1::ModelCounters> by_model = CountersByModel(workers);
  for (const std::string& model : side.models) {
    const auto found = by_model.find(model);
    if (found == by_model.end()) continue;
    const v1::ModelCounters& counters = found->second;
    side.prefilled += counters.prompt_tokens_computed();
    side.reused_own += counters.prompt_tokens_reused_own();
    side.reused_shared += counters.prompt_tokens_reused_shared();
    side.kv_bytes_written +=
        (counters.prompt_tokens_computed() + counters.decode_rows()) * token_bytes;
  }
  return absl::OkStatus();
}

// A cluster of its own for each side, so that neither finds what the other left.
absl::Status RunSide(const DemoOptions& options, int vocab, const std::string& run_dir,
                     Side& side) {
  Launch launch({.run_dir = run_dir,
                 .bin_dir = OwnBinDir(),
                 .models = options.models,
                 .prefill = 1,
                 .decode = 1,
                 .http = "127.0.0.1:0",
                 .grpc = "127.0.0.1:0"});
  ProgressLine line;
  absl::Status status = StartCluster(launch, kStartTimeout, line).status();
  if (status.ok()) {
    status =
        Conversations(options, vocab, launch.cluster().Find("router")->address, side, line).Run();
  }
  if (status.ok()) status = Count(launch.cluster().Find("orchestrator")->address, side);
  StopProcesses(launch.cluster(), kStopGrace);
  RemoveTraces(run_dir, launch.cluster());
  return status;
}

// As many models of either kind as there are of both, up to four.
absl::Status ChooseModels(const CatalogSpec& catalog, Side& off, Side& on) {
  for (const ModelSpec& model : catalog.models) {
    if (model.mode == Mode::kStandard && !model.module.adapter.empty()) {
      off.models.push_back(model.name);
    }
    if (model.mode == Mode::kIcarus) on.models.push_back(model.name);
  }
  const size_t count = std::min<size_t>({off.models.size(), on.models.size(), kModelsMax});
  if (count < 2) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the family has %d standard models with an adapter and %d icarus models; the demo needs "
        "two of each",
        off.models.size(), on.models.size()));
  }
  off.models.resize(count);
  on.models.resize(count);
  return absl::OkStatus();
}

Json ToJson(const Side& side) {
  return {{"models", side.models},
          {"prompt_tokens_prefilled", side.prefilled},
          {"prompt_tokens_reused_own", side.reused_own},
          {"prompt_tokens_reused_shared", side.reused_shared},
          {"kv_bytes_written", side.kv_bytes_written},
          {"first_token_ms_p95", side.first_token_ms_p95()},
          {"output_tokens_per_s", side.tokens_per_second()},
          {"seconds", side.seconds}};
}

void PrintText(const DemoOptions& options, const Side& off, const Side& on) {
  const auto row = [](const char* what, const std::string& a, const std::string& b, double ratio) {
    return std::vector<std::string>{what, a, b, ratio > 0 ? absl::StrFormat("%.1fx", ratio) : ""};
  };
  const auto mib = [](int64_t bytes) { return absl::StrFormat("%.1f MiB", bytes / 1048576.0); };
  absl::PrintF(
      "%d sessions at once, in each %d models in turn on one context: %d tokens to begin with,\n"
      "%d turns of %d tokens, %d tokens of observation after each. 1 prefill and 1 decode "
      "worker.\n\n",
      options.sessions, on.models.size(), options.context_tokens, options.turns,
      options.output_tokens, options.observation_tokens);
  absl::PrintF(
      "%s",
      Table({{"", "SHARING OFF", "SHARING ON", "BETTER BY"},
             {"mode of the models", "standard", "icarus", ""},
             row("prompt tokens prefilled", absl::StrCat(off.prefilled), absl::StrCat(on.prefilled),
                 static_cast<double>(off.prefilled) / on.prefilled),
             row("K/V written", mib(off.kv_bytes_written), mib(on.kv_bytes_written),
                 static_cast<double>(off.kv_bytes_written) / on.kv_bytes_written),
             row("time to first token, p95", Readable(absl::Milliseconds(off.first_token_ms_p95())),
                 Readable(absl::Milliseconds(on.first_token_ms_p95())),
                 off.first_token_ms_p95() / on.first_token_ms_p95()),
             row("output tokens/s", absl::StrFormat("%.0f", off.tokens_per_second()),
                 absl::StrFormat("%.0f", on.tokens_per_second()),
                 on.tokens_per_second() / off.tokens_per_second())}));
  absl::PrintF("\nOff: %s. On: %s.\n", absl::StrJoin(off.models, ", "),
               absl::StrJoin(on.models, ", "));
}

absl::Status Sharing(DemoOptions options) {
  if (options.models.empty()) {
    ASSIGN_OR_RETURN(options.models, FindShippedModels(OwnBinDir(), "family"));
  }
  ASSIGN_OR_RETURN(const CatalogSpec catalog, ReadCatalog(options.models));
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(catalog.base));
  const int64_t longest =
      options.context_tokens +
      int64_t{options.turns} * (options.output_tokens + options.observation_tokens);
  if (longest > config.positions_max) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the conversation grows to %d tokens, the context of these models ends at "
                        "%d: take fewer --turns or --context-tokens",
                        longest, config.positions_max));
  }
  Side off, on;
  RETURN_IF_ERROR(ChooseModels(catalog, off, on));
  std::string run_dir = (std::filesystem::temp_directory_path() / "chorale-demo-XXXXXX").string();
  if (mkdtemp(run_dir.data()) == nullptr) {
    return absl::UnavailableError(absl::StrCat(run_dir, ": cannot be made"));
  }
  absl::Status status = RunSide(options, config.vocab, run_dir, off);
  if (status.ok()) status = RunSide(options, config.vocab, run_dir, on);
  std::error_code ignored;
  std::filesystem::remove_all(run_dir, ignored);
  RETURN_IF_ERROR(status);
  if (options.json) {
    absl::PrintF("%s\n", DumpJson({{"off", ToJson(off)}, {"on", ToJson(on)}}));
  } else {
    PrintText(options, off, on);
  }
  return absl::OkStatus();
}

}  // namespace

void AddDemo(CLI::App& app, Command& chosen) {
  CLI::App* demo = app.add_subcommand("demo", "see what Chorale does");
  demo->require_subcommand(1);
  auto options = std::make_shared<DemoOptions>();
  CLI::App* sharing = demo->add_subcommand(
      "sharing", "the same conversation of four models, with sharing off and on");
  sharing->add_option("--models", options->models,
                      "a chorale.yaml, or its folder; default: the shipped family");
  const auto number = [&](const char* flag, int& value, int low, int high, const char* what) {
    sharing->add_option(flag, value, what)->capture_default_str()->check(CLI::Range(low, high));
  };
  number("--sessions", options->sessions, 1, 64, "conversations at once");
  number("--turns", options->turns, 1, 1000, "of each conversation");
  number("--context-tokens", options->context_tokens, 1, 1 << 20, "before the first turn");
  number("--output-tokens", options->output_tokens, 1, 1 << 16, "of each turn");
  number("--observation-tokens", options->observation_tokens, 0, 1 << 16, "after each turn");
  sharing->add_flag("--json", options->json, "print one JSON object");
  sharing->footer("Example: chorale demo sharing --sessions 8");
  sharing->callback([options, &chosen] {
    chosen = [options] {
      BlockInterrupts();
      const absl::Status status = Sharing(*options);
      return status.ok() ? 0 : Fail(status);
    };
  });
}

}  // namespace chorale::cli
