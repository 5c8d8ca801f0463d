// Speed and size of the prefix index, beside a hash map of the usual kind in the same run.
//
//   bench_index [--millions N ...] [--rounds N] [--json]
//
// Napkin: one lookup is one miss to DRAM, about 100 ns. A core has room for 10 to 16 misses at a
// time, so lookups that do not wait for one another take 6 to 10 ns, and one that must wait for the
// last takes 100. The limit printed beside the lookups is that of random reads of single cache
// lines in as much memory as the index takes, measured in this run. Figures are medians of
// interleaved rounds; resident memory is the peak while the index was filled, so growth is
// included.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <malloc.h>

#include "CLI/CLI.hpp"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/json.h"
#include "base/random.h"
#include "cache/prefix_index.h"

namespace chorale::bench {
namespace {

constexpr uint64_t kSeed = 1;
constexpr uint32_t kChainBlocks = 256;
constexpr uint32_t kLookups = 1 << 20;  // a round
constexpr int kHolder = 3;

using Map = absl::flat_hash_map<BlockKey, uint64_t>;

struct Options {
  std::vector<int> millions = {1, 10};
  int rounds = 11;
  bool json = false;
};

struct Result {
  std::string metric;
  double value = 0;
  std::string unit;
  double peer_value = 0;
  std::optional<double> limit;
};

// The key of block `n`: the bits of a counter, where a real key has those of a SHA-256.
BlockKey KeyOf(uint64_t n) {
  const uint64_t halves[2] = {RandomBits(kSeed, 0, n), RandomBits(kSeed, 1, n)};
  BlockKey key;
  std::memcpy(key.bytes.data(), halves, sizeof halves);
  return key;
}

double Seconds(const std::function<void()>& fn) {
  const auto begin = std::chrono::steady_clock::now();
  fn();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Median times of several things, taken in turns so that a busy neighbour slows all alike.
std::vector<double> Medians(int rounds, const std::vector<std::function<void()>>& fns) {
  std::vector<std::vector<double>> times(fns.size());
  for (int round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < fns.size(); ++i) times[i].push_back(Seconds(fns[i]));
  }
  std::vector<double> medians;
  for (std::vector<double>& t : times) {
    std::nth_element(t.begin(), t.begin() + static_cast<std::ptrdiff_t>(t.size() / 2), t.end());
    medians.push_back(t[t.size() / 2]);
  }
  return medians;
}

// A field of /proc/self/status ("VmRSS", "VmHWM"), in bytes.
double StatusBytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string name; status >> name; status.ignore(1 << 10, '\n')) {
    double kilobytes = 0;
    if (name == field + ":" && status >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

// Runs `fill` and returns by how much the resident set rose at its peak.
double PeakBytes(const std::function<void()>& fill) {
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";  // forget the peak so far
  const double before = StatusBytes("VmRSS");
  fill();
  return StatusBytes("VmHWM") - before;
}

// One index and its peer with the same blocks, and keys to ask them for.
class Bench {
 public:
  Bench(uint32_t blocks, int rounds) : blocks_(blocks), rounds_(rounds) {}

  std::vector<Result> Run() {
    const std::string size = absl::StrFormat("%d M blocks: ", blocks_ / 1'000'000);
    double index_seconds = 0, map_seconds = 0;
    const double index_peak = PeakBytes([&] {
      index_seconds = Seconds([&] {
        for (uint32_t n = 0; n < blocks_; ++n) index_.Add(kHolder, KeyOf(n));
      });
    });
    const double map_peak = PeakBytes([&] {
      map_seconds = Seconds([&] {
        for (uint32_t n = 0; n < blocks_; ++n) map_[KeyOf(n)] |= uint64_t{1} << kHolder;
      });
    });
    std::vector<Result> results = {
        {size + "resident, filling included", index_peak / 1048576, "MiB", map_peak / 1048576},
        {size + "table", static_cast<double>(index_.bytes()) / blocks_, "bytes/block",
         static_cast<double>(map_.capacity()) * (sizeof(Map::value_type) + 1) / blocks_},
        {size + "blocks added", blocks_ / index_seconds / 1e6, "M/s", blocks_ / map_seconds / 1e6}};
    MeasureLookups(size, results);
    CHECK_GT(sum_, 0u);  // keeps the compiler from dropping the loops
    return results;
  }

 private:
  void MeasureLookups(const std::string& size, std::vector<Result>& results) {
    for (uint32_t i = 0; i < kLookups; ++i) {
      single_.push_back(KeyOf(RandomBits(kSeed, 2, i) % blocks_));
    }
    for (uint32_t i = 0; i < kLookups / kChainBlocks; ++i) {
      const uint64_t chain = RandomBits(kSeed, 3, i) % (blocks_ / kChainBlocks);
      for (uint32_t n = 0; n < kChainBlocks; ++n) {
        chains_.push_back(KeyOf(chain * kChainBlocks + n));
      }
    }
    lines_.assign(static_cast<size_t>(index_.bytes()) / 64, {});
    const std::vector<double> seconds = Medians(
        rounds_,
        {[this] { ReadLines(); }, [this] { IndexSingle(); }, [this] { MapSingle(); },
         [this] { IndexWaiting(); }, [this] { MapWaiting(); }, [this] { IndexChains(32); },
         [this] { MapChains(32); }, [this] { IndexChains(256); }, [this] { MapChains(256); }});
    const auto rate = [&](size_t i) { return kLookups / seconds[i] / 1e6; };
    results.push_back({size + "lookups, single", rate(1), "M/s", rate(2), rate(0)});
    results.push_back({size + "lookups, each waiting for the last", rate(3), "M/s", rate(4)});
    results.push_back({size + "lookups, chains of 32", rate(5), "M/s", rate(6), rate(0)});
    results.push_back({size + "lookups, chains of 256", rate(7), "M/s", rate(8), rate(0)});
  }

  void ReadLines() {
    for (uint32_t i = 0; i < kLookups; ++i) {
      sum_ += lines_[MixBits(i) % lines_.size()].words[0];
    }
  }
  void IndexSingle() {
    for (const BlockKey& key : single_) sum_ += index_.HoldersOf(key);
  }
  void MapSingle() {
    for (const BlockKey& key : single_) sum_ += map_.find(key)->second;
  }
  void IndexWaiting() {
    size_t next = 0;
    for (uint32_t i = 0; i < kLookups; ++i) {
      next = (next + (index_.HoldersOf(single_[next]) >> kHolder)) % kLookups;
    }
    sum_ += next + 1;
  }
  void MapWaiting() {
    size_t next = 0;
    for (uint32_t i = 0; i < kLookups; ++i) {
      next = (next + (map_.find(single_[next])->second >> kHolder)) % kLookups;
    }
    sum_ += next + 1;
  }
  std::span<const BlockKey> Chain(size_t i, size_t blocks) const {
    return std::span(chains_).subspan(i / kChainBlocks * kChainBlocks + i % kChainBlocks, blocks);
  }
  void IndexChains(uint32_t blocks) {
    for (uint32_t i = 0; i < kLookups; i += blocks) {
      const PrefixMatch match = index_.Find(Chain(i, blocks));
      CHECK(match.holders.size() == 1 && match.holders[0].blocks == static_cast<int>(blocks));
      sum_ += static_cast<uint64_t>(match.blocks_anywhere);
    }
  }
  void MapChains(uint32_t blocks) {
    for (uint32_t i = 0; i < kLookups; i += blocks) {
      uint64_t leading = ~uint64_t{0};
      for (const BlockKey& key : Chain(i, blocks)) {
        const auto found = map_.find(key);
        if (found == map_.end() || (leading &= found->second) == 0) break;
        ++sum_;
      }
    }
  }

  struct alignas(64) Line {
    uint64_t words[8];
  };
  const uint32_t blocks_;
  const int rounds_;
  PrefixIndex index_;
  Map map_;
  std::vector<BlockKey> single_;
  std::vector<BlockKey> chains_;
  std::vector<Line> lines_;
  uint64_t sum_ = 0;
};

void Print(const std::vector<Result>& results, bool json) {
  Json list = Json::array();
  if (!json) {
    absl::PrintF("%-50s %20s %14s %8s  ratio\n", "FIGURE", "MEASURED", "FLAT_HASH_MAP", "LIMIT");
  }
  for (const Result& r : results) {
    const double ratio = r.value / r.peer_value;
    list.push_back({{"metric", r.metric},
                    {"value", r.value},
                    {"unit", r.unit},
                    {"peer", "absl::flat_hash_map"},
                    {"peer_value", r.peer_value},
                    {"ratio", ratio},
                    {"limit", r.limit.has_value() ? Json(*r.limit) : Json()},
                    {"command", "bench_index --json"}});
    if (json) continue;
    const std::string limit = r.limit.has_value() ? absl::StrFormat("%.2f", *r.limit) : "";
    absl::PrintF("%-50s %8.2f %-11s %14.2f %8s  %.2f\n", r.metric, r.value, r.unit, r.peer_value,
                 limit, ratio);
  }
  if (json) absl::PrintF("%s\n", list.dump(1));
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("bench_index: the prefix index beside a hash map");
  app.add_option("--millions", options.millions, "of blocks; several sizes are measured in turn")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  app.add_option("--rounds", options.rounds, "of each figure")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_flag("--json", options.json, "print a list of JSON objects");
  CLI11_PARSE(app, argc, argv);
  std::vector<Result> results;
  for (int millions : options.millions) {
    for (Result& r : Bench(static_cast<uint32_t>(millions) * 1'000'000, options.rounds).Run()) {
      results.push_back(std::move(r));
    }
  }
  Print(results, options.json);
  return 0;
}

}  // namespace
}  // namespace chorale::bench

int main(int argc, char** argv) { return chorale::bench::Main(argc, argv); }
