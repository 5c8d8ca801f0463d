// `chorale cache`: the K/V blocks of a running cluster, in workers and stores: ls, stat, verify,
// evict.
//
// Each asks every process for its Stat first. A process that does not answer is named on stderr and
// makes the exit code 1; the others are shown all the same.
#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "cli/cache_client.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/output.h"

namespace chorale::cli {
namespace {

constexpr int kBarWidth = 10;

struct CacheOptions {
  ClusterFlags cluster;
  std::vector<std::string> addresses;  // instead of the cluster
  std::string tier;                    // empty: all
  std::string prefix;                  // of keys, in hex
  int limit = 100;
  int timeout_s = 3600;
  bool all = false;
  bool counters = false;
  bool json = false;
};

struct Answer {
  BlockServer server;
  v1::StatBlocksReply stat;
};

struct Silence {
  BlockServer server;
  absl::Status status;
};

// Who was asked: those that answered and have the tier that the command names, and those that
// cannot be asked.
struct Survey {
  std::vector<Answer> answers;
  std::vector<Silence> silent;

  void GivesUpOn(const BlockServer& server, const absl::Status& status) {
    silent.push_back({server, status});
  }
};

bool HasTier(const v1::StatBlocksReply& stat, const std::string& tier) {
  return tier.empty() || std::any_of(stat.tiers().begin(), stat.tiers().end(),
                                     [&](const v1::TierStat& t) { return t.tier() == tier; });
}

absl::StatusOr<Survey> Ask(const CacheOptions& options) {
  ASSIGN_OR_RETURN(const std::vector<BlockServer> servers,
                   FindBlockServers(options.cluster.run_dir, options.addresses));
  Survey survey;
  std::set<std::string> tiers;
  for (const BlockServer& server : servers) {
    absl::StatusOr<v1::StatBlocksReply> stat = StatBlocks(server);
    if (!stat.ok()) {
      survey.GivesUpOn(server, stat.status());
      continue;
    }
    if (stat->tiers().empty()) {
      survey.GivesUpOn(server, absl::UnavailableError("it is still loading: try again soon"));
      continue;
    }
    for (const v1::TierStat& tier : stat->tiers()) tiers.insert(tier.tier());
    if (HasTier(*stat, options.tier)) survey.answers.push_back({server, *std::move(stat)});
  }
  if (survey.answers.empty() && !tiers.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--tier '%s': no process has it; there are: %s", options.tier, absl::StrJoin(tiers, ", ")));
  }
  return survey;
}

Json SilentToJson(const Survey& survey) {
  Json json = Json::array();
  for (const Silence& silence : survey.silent) {
    json.push_back({{"process", silence.server.name},
                    {"address", silence.server.address},
                    {"error", std::string(silence.status.message())}});
  }
  return json;
}

// Names who did not answer, and gives the exit code that follows.
int Report(const Survey& survey) {
  fflush(stdout);
  for (const Silence& silence : survey.silent) {
    const BlockServer& server = silence.server;
    absl::FPrintF(stderr, "chorale: %s%s: %s\n", server.name,
                  server.address.empty() || server.address == server.name
                      ? ""
                      : absl::StrCat(" at ", server.address),
                  silence.status.message());
  }
  return survey.silent.empty() ? 0 : kExitFailed;
}

// ls

struct Listed {
  std::string process;
  v1::BlockInfo block;
};

Json ToJson(const std::vector<Listed>& blocks) {
  Json json = Json::array();
  for (const auto& [process, block] : blocks) {
    json.push_back({{"process", process},
                    {"tier", block.tier()},
                    {"key", absl::BytesToHexString(block.key())},
                    {"index", block.index()},
                    {"bytes", block.bytes()},
                    {"holds", block.holds()},
                    {"age_seconds", block.age_seconds()}});
  }
  return json;
}

std::string ToText(const std::vector<Listed>& blocks) {
  std::vector<std::vector<std::string>> rows = {
      {"PROCESS", "TIER", "KEY", "INDEX", "SIZE", "HOLDS", "LAST USED"}};
  for (const auto& [process, block] : blocks) {
    rows.push_back({process, block.tier(), absl::BytesToHexString(block.key()),
                    absl::StrCat(block.index()), ReadableBytes(block.bytes()),
                    absl::StrCat(block.holds()),
                    block.age_seconds() > 0
                        ? absl::StrCat(Readable(absl::Seconds(block.age_seconds())), " ago")
                        : "-"});
  }
  return Table(rows);
}

absl::StatusOr<int> List(const CacheOptions& options) {
  v1::ListBlocksRequest request;
  ASSIGN_OR_RETURN(*request.mutable_key_prefix(), ParseKeyPrefix(options.prefix));
  request.set_tier(options.tier);
  request.set_limit(options.limit + 1);  // one more says whether there are more
  ASSIGN_OR_RETURN(Survey survey, Ask(options));
  std::vector<Listed> blocks;
  for (const Answer& answer : survey.answers) {
    if (static_cast<int>(blocks.size()) > options.limit) break;
    absl::StatusOr<std::vector<v1::BlockInfo>> listed = ListBlocks(answer.server, request);
    if (!listed.ok()) {
      survey.GivesUpOn(answer.server, listed.status());
      continue;
    }
    for (v1::BlockInfo& block : *listed) blocks.push_back({answer.server.name, std::move(block)});
  }
  const bool more = static_cast<int>(blocks.size()) > options.limit;
  if (more) blocks.resize(options.limit);
  if (options.json) {
    absl::PrintF(
        "%s\n",
        DumpJson({{"blocks", ToJson(blocks)}, {"more", more}, {"silent", SilentToJson(survey)}}));
  } else {
    absl::PrintF("%s", ToText(blocks));
    if (more) absl::PrintF("There are more: --limit shows them, --prefix or --tier chooses.\n");
  }
  return Report(survey);
}

// stat

std::string Bar(int64_t part, int64_t whole) {
  if (whole <= 0) return "-";
  const double share = std::clamp(static_cast<double>(part) / static_cast<double>(whole), 0.0, 1.0);
  const int filled = static_cast<int>(share * kBarWidth + 0.5);
  return absl::StrFormat("[%s%s] %3.0f%%", std::string(filled, '='),
                         std::string(kBarWidth - filled, ' '), 100 * share);
}

// A tier's counter of this name; "-" when it does not count that.
std::string CounterText(const v1::TierStat& tier, const std::string& name) {
  for (const std::string& key : {name, "blocks_" + name}) {
    const auto found = tier.counters().find(key);
    if (found != tier.counters().end()) return absl::StrCat(found->second);
  }
  return "-";
}

std::string TiersText(const Survey& survey, const std::string& only) {
  std::vector<std::vector<std::string>> rows = {{"PROCESS", "TIER", "BLOCKS", "SIZE", "OF", "",
                                                 "HOLDS", "HITS", "MISSES", "CORRUPT", "STATE"}};
  for (const Answer& answer : survey.answers) {
    for (const v1::TierStat& tier : answer.stat.tiers()) {
      if (!only.empty() && tier.tier() != only) continue;
      std::vector<std::string>& row = rows.emplace_back(TierCells(tier));
      row.insert(row.begin(), answer.server.name);
      row.insert(row.end(), {Bar(tier.bytes(), tier.bytes_max()), absl::StrCat(tier.holds()),
                             CounterText(tier, "hits"), CounterText(tier, "misses"),
                             CounterText(tier, "corrupt"), tier.state()});
    }
  }
  return Table(rows);
}

std::string EventsText(const Survey& survey) {
  std::vector<std::vector<std::string>> rows = {{"PROCESS", "EVENTS", "DIGEST OF ALL KEYS"}};
  for (const Answer& answer : survey.answers) {
    rows.push_back({answer.server.name, absl::StrCat(answer.stat.sequence()),
                    absl::BytesToHexString(answer.stat.digest())});
  }
  return Table(rows);
}

std::string CountersText(const Survey& survey, const std::string& only) {
  std::vector<std::vector<std::string>> rows = {{"PROCESS", "TIER", "COUNTER", "VALUE"}};
  const auto add = [&](const std::string& process, const std::string& tier, const auto& counters) {
    const std::map<std::string, int64_t> sorted(counters.begin(), counters.end());
    for (const auto& [name, value] : sorted) {
      rows.push_back({process, tier, name, absl::StrCat(value)});
    }
  };
  for (const Answer& answer : survey.answers) {
    for (const v1::TierStat& tier : answer.stat.tiers()) {
      if (only.empty() || tier.tier() == only) {
        add(answer.server.name, tier.tier(), tier.counters());
      }
    }
  }
  return Table(rows);
}

Json CountersToJson(const google::protobuf::Map<std::string, int64_t>& counters) {
  Json json = Json::object();
  for (const auto& [name, value] : counters) json[name] = value;
  return json;
}

Json StatToJson(const Survey& survey, const std::string& only) {
  Json processes = Json::array();
  for (const Answer& answer : survey.answers) {
    Json tiers = Json::array();
    for (const v1::TierStat& tier : answer.stat.tiers()) {
      if (!only.empty() && tier.tier() != only) continue;
      const bool counted = tier.blocks() >= 0;
      tiers.push_back({{"tier", tier.tier()},
                       {"blocks", counted ? Json(tier.blocks()) : Json()},
                       {"bytes", counted ? Json(tier.bytes()) : Json()},
                       {"bytes_max", tier.bytes_max()},
                       {"holds", tier.holds()},
                       {"state", tier.state()},
                       {"counters", CountersToJson(tier.counters())}});
    }
    processes.push_back({{"process", answer.server.name},
                         {"address", answer.server.address},
                         {"id", answer.stat.id()},
                         {"tiers", std::move(tiers)},
                         {"sequence", answer.stat.sequence()},
                         {"digest", absl::BytesToHexString(answer.stat.digest())}});
  }
  return {{"processes", std::move(processes)}, {"silent", SilentToJson(survey)}};
}

absl::StatusOr<int> Stat(const CacheOptions& options) {
  ASSIGN_OR_RETURN(const Survey survey, Ask(options));
  if (options.json) {
    absl::PrintF("%s\n", DumpJson(StatToJson(survey, options.tier)));
  } else if (!survey.answers.empty()) {
    absl::PrintF("%s\n%s", TiersText(survey, options.tier), EventsText(survey));
    if (options.counters) absl::PrintF("\n%s", CountersText(survey, options.tier));
  }
  return Report(survey);
}

// verify

struct Verified {
  std::string process;
  v1::VerifyProgress progress;
};

absl::StatusOr<std::vector<Verified>> VerifyAll(const CacheOptions& options, Survey& survey) {
  v1::VerifyBlocksRequest request;
  request.set_tier(options.tier);
  std::vector<Verified> all;
  ProgressLine line;
  const double count = static_cast<double>(survey.answers.size());
  for (size_t i = 0; i < survey.answers.size(); ++i) {
    const BlockServer& server = survey.answers[i].server;
    const std::string text =
        absl::StrFormat("verifying %s (%d of %d)", server.name, i + 1, survey.answers.size());
    line.Show(i / count, text);
    const auto verified = VerifyBlocks(
        server, request, absl::Seconds(options.timeout_s), [&](const v1::VerifyProgress& p) {
          const double part =
              p.blocks_total() > 0 ? static_cast<double>(p.blocks_done()) / p.blocks_total() : 0;
          line.Show((i + std::min(part, 1.0)) / count, text);
        });
    if (absl::IsCancelled(verified.status())) return verified.status();
    if (verified.ok()) {
      all.push_back({server.name, *verified});
    } else {
      survey.GivesUpOn(server, verified.status());
    }
  }
  return all;
}

absl::StatusOr<int> Verify(const CacheOptions& options) {
  BlockInterrupts();
  ASSIGN_OR_RETURN(Survey survey, Ask(options));
  ASSIGN_OR_RETURN(const std::vector<Verified> all, VerifyAll(options, survey));
  int64_t bad = 0;
  Json json = Json::array();
  std::vector<std::vector<std::string>> rows = {{"PROCESS", "BLOCKS READ", "BAD"}};
  for (const auto& [process, progress] : all) {
    bad += progress.blocks_bad();
    json.push_back({{"process", process},
                    {"blocks_done", progress.blocks_done()},
                    {"blocks_bad", progress.blocks_bad()}});
    rows.push_back(
        {process, absl::StrCat(progress.blocks_done()), absl::StrCat(progress.blocks_bad())});
  }
  if (options.json) {
    absl::PrintF("%s\n", DumpJson({{"processes", std::move(json)},
                                   {"blocks_bad", bad},
                                   {"silent", SilentToJson(survey)}}));
  } else if (!all.empty()) {
    absl::PrintF("%s\n%s\n", Table(rows),
                 bad == 0 ? "Every block matches its checksum."
                          : absl::StrFormat("%d blocks did not match their checksum and were "
                                            "dropped; they will be computed again.",
                                            bad));
  }
  const int exit_code = Report(survey);
  return bad > 0 ? kExitFailed : exit_code;
}

// evict

absl::StatusOr<int> Evict(const CacheOptions& options) {
  if (options.all == !(options.tier.empty() && options.prefix.empty())) {
    return absl::InvalidArgumentError(
        "evict: say which blocks, with --tier or --prefix or both, or --all for every one");
  }
  v1::EvictBlocksRequest request;
  ASSIGN_OR_RETURN(*request.mutable_key_prefix(), ParseKeyPrefix(options.prefix));
  request.set_tier(options.tier);
  ASSIGN_OR_RETURN(Survey survey, Ask(options));
  v1::EvictBlocksReply sum;
  Json json = Json::array();
  std::vector<std::vector<std::string>> rows = {{"PROCESS", "BLOCKS DROPPED", "SIZE"}};
  for (const Answer& answer : survey.answers) {
    const auto evicted = EvictBlocks(answer.server, request);
    if (!evicted.ok()) {
      survey.GivesUpOn(answer.server, evicted.status());
      continue;
    }
    sum.set_blocks(sum.blocks() + evicted->blocks());
    sum.set_bytes(sum.bytes() + evicted->bytes());
    json.push_back({{"process", answer.server.name},
                    {"blocks", evicted->blocks()},
                    {"bytes", evicted->bytes()}});
    rows.push_back(
        {answer.server.name, absl::StrCat(evicted->blocks()), ReadableBytes(evicted->bytes())});
  }
  if (options.json) {
    absl::PrintF("%s\n", DumpJson({{"processes", std::move(json)},
                                   {"blocks", sum.blocks()},
                                   {"bytes", sum.bytes()},
                                   {"silent", SilentToJson(survey)}}));
  } else if (rows.size() > 1) {
    absl::PrintF("%s\nDropped %d blocks, %s. Blocks that somebody holds stay.\n", Table(rows),
                 sum.blocks(), ReadableBytes(sum.bytes()));
  }
  return Report(survey);
}

using Action = absl::StatusOr<int> (*)(const CacheOptions&);

// Nobody lists what Redis has; what it was asked for is counted.
constexpr char kTiersCounted[] = "pool, dram, disk or redis; default: all";
constexpr char kTiersRead[] = "pool, dram or disk; default: all";

// Declares one of the subcommands with the flags that all have.
CLI::App& AddAction(CLI::App& cache, Command& chosen, const std::string& name,
                    const std::string& description, const char* tiers,
                    const std::shared_ptr<CacheOptions>& options, Action action) {
  CLI::App* sub = cache.add_subcommand(name, description);
  AddRunDirFlag(*sub, options->cluster);
  sub->add_option("--address", options->addresses,
                  "of a worker or store, instead of a run folder; repeatable");
  sub->add_option("--tier", options->tier, tiers);
  sub->add_flag("--json", options->json, "print one JSON object");
  sub->callback([options, action, &chosen] {
    chosen = [options, action] {
      const absl::StatusOr<int> exit_code = action(*options);
      return exit_code.ok() ? *exit_code : Fail(exit_code.status());
    };
  });
  return *sub;
}

}  // namespace

void AddCache(CLI::App& app, Command& chosen) {
  CLI::App* cache = app.add_subcommand("cache", "look after the K/V blocks of a cluster");
  cache->require_subcommand(1);
  auto options = std::make_shared<CacheOptions>();
  constexpr char kPrefixHelp[] = "the first characters of keys, in hex";

  CLI::App& ls = AddAction(*cache, chosen, "ls", "list blocks", kTiersRead, options, List);
  ls.add_option("--prefix", options->prefix, kPrefixHelp);
  ls.add_option("--limit", options->limit, "blocks shown")
      ->capture_default_str()
      ->check(CLI::Range(1, 1'000'000));
  ls.footer("Example: chorale cache ls --tier pool --limit 20");

  CLI::App& stat = AddAction(*cache, chosen, "stat", "what each tier of each process holds",
                             kTiersCounted, options, Stat);
  stat.add_flag("--counters", options->counters, "show all counters");
  stat.footer(
      "Two views of a process are the same when their events and digests are.\n"
      "Example: chorale cache stat --counters");

  CLI::App& verify =
      AddAction(*cache, chosen, "verify", "compare every block with its checksum and drop bad ones",
                kTiersRead, options, Verify);
  verify
      .add_option("--timeout-seconds", options->timeout_s, "give up on a process after this long")
      ->capture_default_str()
      ->check(CLI::Range(1, 86'400));
  verify.footer(
      "Exit code 1 when there were bad blocks.\n"
      "Example: chorale cache verify --tier disk");

  CLI::App& evict = AddAction(*cache, chosen, "evict", "drop blocks that nobody holds", kTiersRead,
                              options, Evict);
  evict.add_option("--prefix", options->prefix, kPrefixHelp);
  evict.add_flag("--all", options->all, "every block of every process");
  evict.footer("Example: chorale cache evict --tier pool");
}

}  // namespace chorale::cli
