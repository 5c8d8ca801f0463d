// The store's disk tier beside RocksDB with its values in blob files: blocks of one size, put one
// after the other beyond the bound, then got at random, each verified. Rounds go through both in
// turn and the median counts.
//
// RocksDB has no bound of its own: the oldest blocks are deleted beyond it, and its garbage
// collector follows. Both read and write past the page cache; RocksDB has no log, no compression
// and no cache.
#include "services/kvstore/disk_tier.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <rocksdb/db.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <sys/stat.h>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/hash.h"
#include "base/json.h"
#include "bench/fixtures/sample_blocks.h"

namespace chorale::bench {
namespace {

struct Options {
  int64_t bound_mib = 4096;
  int64_t put_mib = 2048;  // a round, after the bound was reached
  int64_t get_mib = 1024;  // a round
  int rounds = 3;
  std::string folder;
  bool json = false;
  std::string machine;
  std::string commit;
};

// Either store: blocks by number, all of one size.
class Store {
 public:
  virtual ~Store() = default;
  virtual void Put(uint64_t number, std::span<const std::byte> bytes) = 0;
  virtual bool Get(uint64_t number, std::span<std::byte> into) = 0;
};

class TierStore : public Store {
 public:
  TierStore(const std::string& folder, const Options& options) {
    const DiskFileOptions disk = {.dir = folder, .slabs = {.bytes_max = options.bound_mib << 20}};
    auto file = DiskFile::Open(disk);
    CHECK(file.ok()) << file.status();
    auto tier = DiskTier::Open(*std::move(file), disk.slabs, 1);
    CHECK(tier.ok()) << tier.status();
    tier_ = *std::move(tier);
  }
  void Put(uint64_t number, std::span<const std::byte> bytes) override {
    const BlockMeta meta = {
        .bytes = static_cast<int64_t>(bytes.size()), .checksum = Checksum64(bytes), .format = 1};
    std::vector<BlockKey> gone;
    const absl::Status status = tier_->Write(KeyOf(number), meta, bytes, gone);
    CHECK(status.ok()) << status;
  }
  bool Get(uint64_t number, std::span<std::byte> into) override {
    const std::optional<BlockMeta> meta = tier_->Find(KeyOf(number));
    return meta && tier_->Read(KeyOf(number), *meta, into).ok();
  }

 private:
  std::unique_ptr<DiskTier> tier_;
};

class RocksStore : public Store {
 public:
  RocksStore(const std::string& folder, const Options& options, int64_t block_bytes)
      : blocks_max_((options.bound_mib << 20) / block_bytes) {
    rocksdb::Options rocks;
    rocks.create_if_missing = true;
    rocks.enable_blob_files = true;
    rocks.min_blob_size = 0;
    rocks.blob_file_size = 64 << 20;
    rocks.enable_blob_garbage_collection = true;
    rocks.blob_garbage_collection_age_cutoff = 0.5;
    rocks.blob_garbage_collection_force_threshold = 0.5;
    rocks.compression = rocksdb::kNoCompression;
    rocks.use_direct_reads = true;
    rocks.use_direct_io_for_flush_and_compaction = true;
    rocks.write_buffer_size = 64 << 20;
    rocks.max_background_jobs = 2;
    rocksdb::BlockBasedTableOptions table;
    table.cache_index_and_filter_blocks = false;
    rocks.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
    rocksdb::DB* db = nullptr;
    const rocksdb::Status status = rocksdb::DB::Open(rocks, folder, &db);
    CHECK(status.ok()) << status.ToString();
    db_.reset(db);
    write_.disableWAL = true;
  }
  void Put(uint64_t number, std::span<const std::byte> bytes) override {
    const rocksdb::Slice value(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    CHECK(db_->Put(write_, SliceOf(KeyOf(number)), value).ok());
    if (number >= blocks_max_)
      CHECK(db_->Delete(write_, SliceOf(KeyOf(number - blocks_max_))).ok());
  }
  bool Get(uint64_t number, std::span<std::byte> into) override {
    rocksdb::PinnableSlice value;
    const BlockKey key = KeyOf(number);
    if (!db_->Get({}, db_->DefaultColumnFamily(), SliceOf(key), &value).ok()) return false;
    std::memcpy(into.data(), value.data(), std::min(into.size(), value.size()));
    return value.size() == into.size();
  }

 private:
  static rocksdb::Slice SliceOf(const BlockKey& key) {
    return {reinterpret_cast<const char*>(key.bytes.data()), key.bytes.size()};
  }
  const uint64_t blocks_max_;
  rocksdb::WriteOptions write_;
  std::unique_ptr<rocksdb::DB> db_;
};

int64_t DiskUse(const std::string& folder) {
  int64_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    struct stat stat {};
    if (lstat(entry.path().c_str(), &stat) == 0) bytes += int64_t{stat.st_blocks} * 512;
  }
  return bytes;
}

// One of the two under measurement.
struct Subject {
  std::string name;
  std::string folder;
  std::unique_ptr<Store> store;
  uint64_t next = 0;  // number
  std::vector<double> put_gbps;
  std::vector<double> get_gbps;
  int64_t disk_max = 0;
};

double Seconds(const std::function<void()>& fn) {
  const absl::Time begin = absl::Now();
  fn();
  return absl::ToDoubleSeconds(absl::Now() - begin);
}

void PutBlocks(Subject& subject, int64_t block_bytes, int64_t blocks) {
  // The content is made once, and the number written into it, as making it costs more than a put.
  AlignedBytes memory(block_bytes);
  const std::vector<std::byte> content = BytesOf(7, block_bytes);
  std::copy(content.begin(), content.end(), memory.span().begin());
  for (int64_t i = 0; i < blocks; ++i, ++subject.next) {
    std::memcpy(memory.span().data(), &subject.next, sizeof(subject.next));
    subject.store->Put(subject.next, memory.span());
  }
}

// The tier keeps what is used rather than what is new, so some of the newest have gone; others are
// drawn for them.
void GetBlocks(Subject& subject, int64_t block_bytes, int64_t blocks, uint64_t present) {
  AlignedBytes memory(block_bytes);
  uint64_t draws = 0;
  for (int64_t got = 0; got < blocks; ++draws) {
    CHECK(draws < 16 * static_cast<uint64_t>(blocks)) << subject.name << " has lost most blocks";
    const uint64_t number = subject.next - 1 - RandomBits(1, subject.next, draws) % present;
    if (!subject.store->Get(number, memory.span())) continue;
    CHECK(std::memcmp(memory.span().data(), &number, sizeof(number)) == 0) << subject.name;
    ++got;
  }
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void MeasureSize(const Options& options, int64_t block_bytes, Json& list) {
  Subject subjects[2];
  for (Subject& subject : subjects) {
    const bool ours = &subject == subjects;
    subject.name = ours ? "disk tier" : "RocksDB";
    subject.folder =
        absl::StrFormat("%s/%s-%d", options.folder, ours ? "tier" : "rocks", block_bytes);
    std::filesystem::create_directories(subject.folder);
    if (ours) {
      subject.store = std::make_unique<TierStore>(subject.folder, options);
    } else {
      subject.store = std::make_unique<RocksStore>(subject.folder, options, block_bytes);
    }
    PutBlocks(subject, block_bytes, (options.bound_mib << 20) / block_bytes);  // up to the bound
  }
  const double put_gb = static_cast<double>(options.put_mib << 20) / 1e9;
  const double get_gb = static_cast<double>(options.get_mib << 20) / 1e9;
  // Most of what both have: the newest three quarters of the bound.
  const uint64_t present = static_cast<uint64_t>((options.bound_mib << 20) / block_bytes * 3 / 4);
  for (int round = 0; round < options.rounds; ++round) {
    for (Subject& subject : subjects) {
      subject.put_gbps.push_back(
          put_gb /
          Seconds([&] { PutBlocks(subject, block_bytes, (options.put_mib << 20) / block_bytes); }));
      subject.disk_max = std::max(subject.disk_max, DiskUse(subject.folder));
      subject.get_gbps.push_back(get_gb / Seconds([&] {
                                   GetBlocks(subject, block_bytes,
                                             (options.get_mib << 20) / block_bytes, present);
                                 }));
    }
  }
  const auto add = [&](const char* what, double ours, double theirs, const char* unit) {
    const std::string metric = absl::StrFormat("%s, %d KiB", what, block_bytes >> 10);
    if (!options.json) {
      printf("%-20s disk tier %8.2f  RocksDB %8.2f %s\n", metric.c_str(), ours, theirs, unit);
    }
    list.push_back({{"metric", metric},
                    {"value", ours},
                    {"unit", unit},
                    {"peer", "RocksDB blobs"},
                    {"peer_value", theirs},
                    {"ratio", ours / theirs},
                    {"limit", nullptr},
                    {"command", "bench_disk_tier --json"},
                    {"machine", options.machine},
                    {"date", absl::FormatTime("%Y-%m-%d", absl::Now(), absl::UTCTimeZone())},
                    {"commit", options.commit}});
  };
  add("put", Median(subjects[0].put_gbps), Median(subjects[1].put_gbps), "GB/s");
  add("get", Median(subjects[0].get_gbps), Median(subjects[1].get_gbps), "GB/s");
  add("disk used", static_cast<double>(subjects[0].disk_max) / (1 << 20),
      static_cast<double>(subjects[1].disk_max) / (1 << 20), "MiB");
  for (Subject& subject : subjects) {
    subject.store.reset();
    std::filesystem::remove_all(subject.folder);
  }
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("bench_disk_tier: the store's disk tier beside RocksDB");
  app.add_option("--bound-mib", options.bound_mib, "of disk")->capture_default_str();
  app.add_option("--put-mib", options.put_mib, "put in each round")->capture_default_str();
  app.add_option("--get-mib", options.get_mib, "got in each round")->capture_default_str();
  app.add_option("--rounds", options.rounds, "whose median counts")->capture_default_str();
  app.add_option("--folder", options.folder, "for the files; a temporary one if not set");
  app.add_flag("--json", options.json, "print a list of JSON objects");
  app.add_option("--machine", options.machine, "named in the JSON");
  app.add_option("--commit", options.commit, "named in the JSON");
  CLI11_PARSE(app, argc, argv);
  const bool temporary = options.folder.empty();
  if (temporary) options.folder = MakeTempDir();
  Json list = Json::array();
  for (const int64_t block_bytes : {64 << 10, 256 << 10}) MeasureSize(options, block_bytes, list);
  if (options.json) printf("%s\n", list.dump(2).c_str());
  if (temporary) std::filesystem::remove_all(options.folder);
  return 0;
}

}  // namespace
}  // namespace chorale::bench

int main(int argc, char** argv) { return chorale::bench::Main(argc, argv); }
