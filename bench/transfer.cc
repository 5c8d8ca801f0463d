// How fast K/V blocks move from one process to another, by every way Chorale has:
//
//   tcp, unix  gRPC streams of raw frames, sent from where the blocks lie, over 1, 2 or 4
//   connections shm        offsets over gRPC, bytes copied out of the sender's memory process
//   copied within this process
//
// The sender is this program again, in a process of its own. The receiver copies every block into
// its own pool and verifies its copy; each way is measured with and without that. memcpy of the
// same bytes in the same round is the peer: no way can be faster by one core. Rounds go through all
// ways in turn and the median of the rounds counts, so what else the machine does hits all of them.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <functional>
#include <span>
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
#include "bench/transfer_receiver.h"
#include "bench/transfer_sender.h"

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
  std::string socket_path;  // set: this process is the sender
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
    std::vector<std::string> words = {
        "bench_transfer",           "--sender-socket", folder_ + "/sender.sock",        "--bytes",
        std::to_string(size.bytes), "--block-bytes",   std::to_string(size.block_bytes)};
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
  const std::string& tcp() const { return addresses_[0]; }
  const std::string& unix_socket() const { return addresses_[1]; }
  const std::string& region() const { return addresses_[2]; }

 private:
  void ReadAddresses(const FileDescriptor& output) {
    std::string line;
    char c = 0;
    while (addresses_.size() < 3) {
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
                        TransferReceiver& receiver, std::span<const std::byte> source) {
  std::vector<Way> ways;
  const auto add = [&](std::string name, TransferWay way) {
    ways.push_back(
        {absl::StrFormat("%s, %d stream%s", name, way.streams, way.streams > 1 ? "s" : ""),
         [&receiver, way](bool verify) { return receiver.PullSeconds(way, verify); }});
  };
  for (const int streams : {1, 2, 4}) add("tcp", {.address = sender.tcp(), .streams = streams});
  for (const int streams : {1, 2, 4}) {
    add("unix", {.address = sender.unix_socket(), .streams = streams});
  }
  for (const int streams : {1, 2}) {
    add("shm", {.address = sender.unix_socket(), .region = &region, .streams = streams});
  }
  ways.push_back({"process", [&receiver, source](bool verify) {
                    return receiver.CopySeconds(source, verify);
                  }});
  return ways;
}

void Print(const Options& options, const std::vector<Way>& ways, double memcpy_gbps) {
  if (!options.json) {
    absl::PrintF("%-16s %23s %23s\n%-16s %10s %12s %10s %12s %10s\n", "", "with checksums",
                 "without", "way", "GB/s", "core s/GB", "GB/s", "core s/GB", "of memcpy");
    for (const Way& way : ways) {
      absl::PrintF("%-16s %10.2f %12.3f %10.2f %12.3f %9.0f%%\n", way.name, Median(way.gbps[true]),
                   Median(way.cpu_seconds[true]), Median(way.gbps[false]),
                   Median(way.cpu_seconds[false]), 100 * Median(way.gbps[true]) / memcpy_gbps);
    }
    absl::PrintF("%-16s %10s %12s %10.2f\n", "memcpy", "", "", memcpy_gbps);
    return;
  }
  Json list = Json::array();
  const auto round = [](double value) { return std::round(value * 100) / 100; };
  const auto add = [&](const std::string& metric, double value) {
    list.push_back({{"metric", metric},
                    {"value", round(value)},
                    {"unit", "GB/s"},
                    {"peer", "memcpy"},
                    {"peer_value", round(memcpy_gbps)},
                    {"ratio", round(value / memcpy_gbps)},
                    {"limit", round(memcpy_gbps)},
                    {"command", "bench_transfer --json"},
                    {"machine", options.machine},
                    {"date", absl::FormatTime("%Y-%m-%d", absl::Now(), absl::UTCTimeZone())},
                    {"commit", options.commit}});
  };
  for (const Way& way : ways) {
    add(way.name, Median(way.gbps[true]));
    add(absl::StrCat(way.name, ", no checksums"), Median(way.gbps[false]));
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
  const auto region = MappedRegion::Open(sender.region());
  CHECK(region.ok()) << region.status();
  const HugeMemory pool(options.size.bytes);
  const HugeMemory source(options.size.bytes);
  TransferReceiver receiver(options.size, pool.bytes());
  std::vector<Way> ways = WaysOf(sender, **region, receiver, source.bytes());
  std::erase_if(ways, [&](const Way& way) { return way.name.find(options.only) == way.name.npos; });
  const double gigabytes = static_cast<double>(options.size.bytes) / 1e9;
  std::vector<double> memcpy_gbps;
  for (int round = -1; round < options.rounds; ++round) {
    memcpy_gbps.push_back(gigabytes / receiver.MemcpySeconds(source.bytes()));
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
  app.add_option("--sender-socket", options.socket_path, "be the sender, listening there")
      ->group("");
  CLI11_PARSE(app, argc, argv);
  options.size.bytes -= options.size.bytes % options.size.block_bytes;
  if (options.size.bytes == 0) {
    absl::FPrintF(stderr, "--block-bytes: %d is more than --bytes\n", options.size.block_bytes);
    return 2;
  }
  if (!options.socket_path.empty()) {
    return chorale::bench::RunTransferSender(options.size, options.socket_path, STDIN_FILENO,
                                             STDOUT_FILENO);
  }
  return chorale::bench::Run(options);
}
