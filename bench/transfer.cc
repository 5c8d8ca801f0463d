// How fast K/V blocks move from one process to another, by every way Chorale has:
//
//   tcp, unix  gRPC streams of raw frames, sent from where the blocks lie, over 1, 2 or 4
//              connections
//   bare       the same sockets without gRPC, read straight into place: what the kernel takes
//   shm        offsets over gRPC, bytes copied out of the sender's memory
//   process    copied within this process
//
// The sender is this program again, in a process of its own. The receiver takes every block into
// its own pool and verifies its copy; each way is measured with and without that. The limit of a
// socket is the same number of bare ones; that of the other ways memcpy of the same bytes by one
// core, which is everyone's peer. Rounds go through all ways in turn and the median of the rounds
// counts, so what else the machine does hits all of them.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "base/json.h"
#include "bench/fixtures/transfer_receiver.h"
#include "bench/fixtures/transfer_sender.h"

extern char** environ;

namespace chorale::bench {
namespace {

struct Options {
  TransferSize size;
  int rounds = 7;
  bool json = false;
  std::string only;  // ways whose name contains it
  std::string machine;
  std::string commit;
  std::string sender_folder;  // set: this process is the sender
};

// The sending process; it ends with this.
class SenderProcess {
 public:
  explicit SenderProcess(const TransferSize& size) {
    folder_ = (std::filesystem::temp_directory_path() / "chorale-transfer-XXXXXX").string();
    CHECK(mkdtemp(folder_.data()) != nullptr) << folder_;
    std::array<int, 2> to{};
    std::array<int, 2> from{};
    CHECK_EQ(pipe2(to.data(), O_CLOEXEC), 0);
    CHECK_EQ(pipe2(from.data(), O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, to[0], 0);
    posix_spawn_file_actions_adddup2(&actions, from[1], 1);
    std::vector<std::string> words = {"bench_transfer",
                                      "--sender-folder",
                                      folder_,
                                      "--bytes",
                                      std::to_string(size.bytes),
                                      "--block-bytes",
                                      std::to_string(size.block_bytes)};
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    CHECK_EQ(posix_spawn(&pid_, "/proc/self/exe", &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(to[0]);
    close(from[1]);
    input_ = FileDescriptor(to[1]);
    ReadAddresses(FileDescriptor(from[0]));
  }
  ~SenderProcess() {
    input_ = FileDescriptor();
    waitpid(pid_, nullptr, 0);
    std::filesystem::remove_all(folder_);
  }
  SenderProcess(const SenderProcess&) = delete;

  pid_t pid() const { return pid_; }
  const std::string& address(TransferAddress which) const { return addresses_.at(which); }

 private:
  void ReadAddresses(const FileDescriptor& output) {
    std::string line;
    char c = 0;
    while (addresses_.size() < kTransferAddresses) {
      CHECK_EQ(read(output.get(), &c, 1), 1) << "the sender has ended";
      if (c != '\n') {
        line += c;
        continue;
      }
      addresses_.push_back(std::exchange(line, {}));
    }
  }

  std::string folder_;
  pid_t pid_ = 0;
  FileDescriptor input_;
  std::vector<std::string> addresses_;
};

// One row of the table.
struct Way {
  std::string name;
  std::function<double(bool verify)> seconds;
  std::array<std::vector<double>, 2> gbps;         // of each round, without and with verification
  std::array<std::vector<double>, 2> cpu_seconds;  // of both processes, for a gigabyte
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// What a process has used of all cores.
double CpuSeconds(pid_t pid) {
  clockid_t clock = 0;
  timespec time = {};
  CHECK_EQ(clock_getcpuclockid(pid, &clock), 0);
  CHECK_EQ(clock_gettime(clock, &time), 0);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

std::vector<Way> WaysOf(const SenderProcess& sender, const MappedRegion& region,
                        TransferReceiver& receiver) {
  std::vector<Way> ways;
  const auto add = [&](std::string name, TransferWay way) {
    ways.push_back(
        {.name = absl::StrFormat("%s, %d stream%s", name, way.streams, way.streams > 1 ? "s" : ""),
         .seconds = [&receiver, way](bool verify) { return receiver.PullSeconds(way, verify); }});
  };
  for (const int streams : {1, 2, 4}) {
    add("bare tcp", {.address = sender.address(kBareTcp), .grpc = false, .streams = streams});
    add("tcp", {.address = sender.address(kTcp), .streams = streams});
  }
  for (const int streams : {1, 2, 4}) {
    add("bare unix", {.address = sender.address(kBareUnix), .grpc = false, .streams = streams});
    add("unix", {.address = sender.address(kUnix), .streams = streams});
  }
  for (const int streams : {1, 2}) {
    add("shm", {.address = sender.address(kUnix), .region = &region, .streams = streams});
  }
  ways.push_back({.name = "process",
                  .seconds = [&receiver](bool verify) { return receiver.CopySeconds(verify); }});
  return ways;
}

void Print(const Options& options, const std::vector<Way>& ways, double memcpy_gbps) {
  if (!options.json) {
    absl::PrintF("%-20s %23s %23s\n%-20s %10s %12s %10s %12s %10s\n", "", "with checksums",
                 "without", "way", "GB/s", "core s/GB", "GB/s", "core s/GB", "of memcpy");
    for (const Way& way : ways) {
      absl::PrintF("%-20s %10.2f %12.3f %10.2f %12.3f %9.0f%%\n", way.name, Median(way.gbps[true]),
                   Median(way.cpu_seconds[true]), Median(way.gbps[false]),
                   Median(way.cpu_seconds[false]), 100 * Median(way.gbps[true]) / memcpy_gbps);
    }
    absl::PrintF("%-20s %10s %12s %10.2f\n", "memcpy", "", "", memcpy_gbps);
    return;
  }
  Json list = Json::array();
  const auto round = [](double value) { return std::round(value * 100) / 100; };
  const auto add = [&](const std::string& metric, double value, double limit) {
    list.push_back({{"metric", metric},
                    {"value", round(value)},
                    {"unit", "GB/s"},
                    {"peer", "memcpy"},
                    {"peer_value", round(memcpy_gbps)},
                    {"ratio", round(value / memcpy_gbps)},
                    {"limit", round(limit)},
                    {"command", "bench_transfer --json"},
                    {"machine", options.machine},
                    {"date", absl::FormatTime("%Y-%m-%d", absl::Now(), absl::UTCTimeZone())},
                    {"commit", options.commit}});
  };
  for (const Way& way : ways) {
    const auto bare = std::find_if(ways.begin(), ways.end(), [&](const Way& other) {
      return other.name == absl::StrCat("bare ", way.name);
    });
    for (const bool verify : {true, false}) {
      add(absl::StrCat(way.name, verify ? "" : ", no checksums"), Median(way.gbps[verify]),
          bare == ways.end() ? memcpy_gbps : Median(bare->gbps[verify]));
    }
  }
  absl::PrintF("%s\n", list.dump(1));
}

void Measure(const SenderProcess& sender, double gigabytes, bool verify, Way& way) {
  const auto cpu = [&] { return CpuSeconds(getpid()) + CpuSeconds(sender.pid()); };
  const double before = cpu();
  way.gbps[verify].push_back(gigabytes / way.seconds(verify));
  way.cpu_seconds[verify].push_back((cpu() - before) / gigabytes);
}

int Run(const Options& options) {
  const SenderProcess sender(options.size);
  const auto region = MappedRegion::Open(sender.address(kRegion));
  CHECK(region.ok()) << region.status();
  const HugeMemory pool(options.size.bytes);
  const HugeMemory source(options.size.bytes);
  const auto sent = (*region)->At(0, options.size.bytes);
  CHECK(sent.ok()) << sent.status();
  std::memcpy(source.bytes().data(), sent->data(), sent->size());
  TransferReceiver receiver(options.size, pool.bytes(), source.bytes());
  std::vector<Way> ways = WaysOf(sender, **region, receiver);
  std::erase_if(ways, [&](const Way& way) { return way.name.find(options.only) == way.name.npos; });
  const double gigabytes = static_cast<double>(options.size.bytes) / 1e9;
  std::vector<double> memcpy_gbps;
  for (int round = -1; round < options.rounds; ++round) {
    memcpy_gbps.push_back(gigabytes / receiver.MemcpySeconds());
    for (Way& way : ways) {
      Measure(sender, gigabytes, true, way);
      Measure(sender, gigabytes, false, way);
    }
    if (round >= 0) continue;
    memcpy_gbps.clear();  // that was to warm up
    for (Way& way : ways) way.gbps = way.cpu_seconds = {};
  }
  Print(options, ways, Median(memcpy_gbps));
  return 0;
}

}  // namespace
}  // namespace chorale::bench

int main(int argc, char** argv) {
  chorale::bench::Options options;
  CLI::App app("How fast K/V blocks move from one process to another.");
  app.add_option("--bytes", options.size.bytes, "in all, of one round")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{1} << 20, int64_t{1} << 34));
  app.add_option("--block-bytes", options.size.block_bytes, "of one block")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{8}, int64_t{1} << 28));
  app.add_option("--rounds", options.rounds)->capture_default_str()->check(CLI::PositiveNumber);
  app.add_option("--only", options.only, "ways whose name contains this");
  app.add_flag("--json", options.json, "print a list of JSON objects");
  app.add_option("--machine", options.machine, "named in the JSON");
  app.add_option("--commit", options.commit, "named in the JSON");
  app.add_option("--sender-folder", options.sender_folder, "be the sender, with its sockets there")
      ->group("");
  CLI11_PARSE(app, argc, argv);
  options.size.bytes -= options.size.bytes % options.size.block_bytes;
  if (options.size.bytes == 0) {
    absl::FPrintF(stderr, "--block-bytes: %d is more than --bytes\n", options.size.block_bytes);
    return 2;
  }
  if (!options.sender_folder.empty()) {
    return chorale::bench::RunTransferSender(options.size, options.sender_folder, STDIN_FILENO,
                                             STDOUT_FILENO);
  }
  return chorale::bench::Run(options);
}
