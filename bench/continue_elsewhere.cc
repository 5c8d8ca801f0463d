// What it costs to continue on one worker a context that another one has written: the time to the
// first token, when the context is read from the other's memory, pulled over TCP, or taken from a
// store, and when it is computed again.
//
// All are real processes on this machine. Two workers hold the context, one that shares its memory
// and one that does not, and the first has put it into the store. A third is asked to continue it,
// in every way in turn, after it was made to forget it; the median of the rounds counts, so what
// else the machine does hits all ways.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/json.h"
#include "base/random.h"
#include "bench/engine_bench.h"
#include "chorale/v1/blocks.grpc.pb.h"
#include "chorale/v1/worker.grpc.pb.h"
#include "model/checkpoint/random_checkpoint.h"
#include "rpc/channels.h"

namespace chorale::bench {
namespace {

constexpr char kModel[] = "125m";
constexpr absl::Duration kPatience = absl::Minutes(2);
constexpr int kTries = 5;

struct Options {
  int context = 4000;
  int more = 16;  // tokens of the second turn
  int rounds = 5;
  int threads = 0;
  bool json = false;
  std::string machine;
  std::string commit;
};

// A server of this build, in a folder of its own; killed when the object goes.
class Server {
 public:
  Server(const std::string& program, const std::string& folder, std::vector<std::string> flags) {
    std::filesystem::create_directory(folder);
    const std::string address_file = folder + "/address";
    flags.insert(flags.begin(), absl::StrCat(CHORALE_BINARY_FOLDER, "/", program));
    flags.insert(flags.end(), {"--address-file", address_file});
    std::vector<char*> argv;
    for (std::string& flag : flags) argv.push_back(flag.data());
    argv.push_back(nullptr);
    const std::string log_path = folder + "/log";
    pid_ = fork();
    CHECK_GE(pid_, 0);
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      dup2(open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600), STDERR_FILENO);
      execv(argv[0], argv.data());
      _exit(127);
    }
    Await([&] {
      CHECK_EQ(waitpid(pid_, nullptr, WNOHANG), 0) << program << " ended, see " << folder << "/log";
      return std::filesystem::exists(address_file);
    });
    std::ifstream in(address_file);
    for (std::string line; std::getline(in, line);) {
      if (line.rfind("grpc=", 0) == 0) address_ = line.substr(5);
    }
  }
  ~Server() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  const std::string& address() const { return address_; }
  std::unique_ptr<v1::Blocks::Stub> Blocks() const {
    return v1::Blocks::NewStub(OpenChannel(address_));
  }

  // Waits for what another process does.
  template <typename Done>
  static void Await(Done done) {
    const absl::Time give_up = absl::Now() + kPatience;
    while (!done()) {
      CHECK(absl::Now() < give_up) << "a server does not do its part";
      absl::SleepFor(absl::Milliseconds(2));
    }
  }

 private:
  pid_t pid_ = -1;
  std::string address_;
};

std::vector<int> RandomTokens(uint64_t stream, int count) {
  std::vector<int> tokens(count);
  for (int i = 0; i < count; ++i) {
    tokens[i] = static_cast<int>(RandomBits(1, stream, i) % Shape125M().vocab);
  }
  return tokens;
}

struct Answer {
  double first_token_ms = 0;
  int tokens_received = 0;
};

// Asks a decode worker for one token.
Answer Ask(const Server& worker, const std::vector<int>& prompt, const std::string& holder) {
  v1::DecodeRequest request;
  request.set_model(kModel);
  request.mutable_prompt()->Assign(prompt.begin(), prompt.end());
  request.set_n(1);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_seed(1);
  request.mutable_sampling()->set_max_tokens(1);
  request.mutable_sampling()->set_ignore_eos(true);
  if (!holder.empty()) {
    v1::BlockHolder& named = *request.add_holders();
    named.set_address(holder);
    named.set_blocks(static_cast<int>(prompt.size()) / kernels::kBlockTokens);
  }
  const auto stub = v1::Decode::NewStub(OpenChannel(worker.address()));
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  Answer answer;
  const absl::Time begin = absl::Now();
  const auto stream = stub->Generate(&context, request);
  for (v1::GenerateChunk chunk; stream->Read(&chunk);) {
    if (answer.first_token_ms == 0) {
      answer.first_token_ms = absl::ToDoubleMilliseconds(absl::Now() - begin);
    }
    if (chunk.has_usage()) answer.tokens_received = chunk.usage().transferred_tokens();
  }
  const grpc::Status status = stream->Finish();
  CHECK(status.ok()) << status.error_message();
  return answer;
}

void Forget(const Server& worker) {
  grpc::ClientContext context;
  v1::EvictBlocksReply reply;
  const grpc::Status status = worker.Blocks()->Evict(&context, {}, &reply);
  CHECK(status.ok()) << status.error_message();
}

void AwaitReady(const Server& worker) {
  const auto stub = v1::WorkerControl::NewStub(OpenChannel(worker.address()));
  Server::Await([&] {
    grpc::ClientContext context;
    v1::WorkerStatusResponse status;
    return stub->Status(&context, {}, &status).ok() && status.state() == "serving";
  });
}

int64_t BlocksIn(const Server& store) {
  grpc::ClientContext context;
  v1::StatBlocksReply reply;
  CHECK(store.Blocks()->Stat(&context, {}, &reply).ok());
  return reply.tiers_size() == 0 ? 0 : reply.tiers(0).blocks();
}

// One way to come by the context, and the times it took.
struct Way {
  std::string name;
  std::string holder;  // empty: it is computed
  std::vector<double> ms = {};
};

// Asks a worker that knows nothing of the context. A pull that is given up on the way, on a machine
// that is busy with other things, is no answer to the question: it is repeated.
Answer Continue(const Server& worker, const std::vector<int>& prompt, const Way& way, int known) {
  const int expected = way.holder.empty() ? 0 : known;
  for (int i = 0; i < kTries; ++i) {
    Forget(worker);
    const Answer answer = Ask(worker, prompt, way.holder);
    if (answer.tokens_received == expected) return answer;
    std::fprintf(stderr, "%s: %d tokens came instead of %d, once more\n", way.name.c_str(),
                 answer.tokens_received, expected);
  }
  CHECK(false) << way.name << ": the context does not come";
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void Print(const std::vector<Way>& ways, const Options& options) {
  const Way& computed = ways.back();
  const std::string today = absl::FormatTime("%Y-%m-%d", absl::Now(), absl::UTCTimeZone());
  Json list = Json::array();
  for (const Way& way : ways) {
    std::vector<double> ratios;  // of each round
    for (size_t i = 0; i < way.ms.size(); ++i) ratios.push_back(computed.ms[i] / way.ms[i]);
    const double ratio = Median(ratios);
    if (!options.json) {
      absl::PrintF("%-36s %9.1f ms   %6.2f x as fast as computing\n", way.name, Median(way.ms),
                   ratio);
    } else if (&way != &computed) {
      list.push_back({{"metric", absl::StrFormat("time to first token behind %d tokens, %s",
                                                 options.context, way.name)},
                      {"value", std::round(Median(way.ms) * 10) / 10},
                      {"unit", "ms"},
                      {"peer", computed.name},
                      {"peer_value", std::round(Median(computed.ms) * 10) / 10},
                      {"ratio", std::round(ratio * 100) / 100},
                      {"limit", nullptr},
                      {"command", "bench_continue_elsewhere --json"},
                      {"machine", options.machine},
                      {"date", today},
                      {"commit", options.commit}});
    }
  }
  if (options.json) std::printf("%s\n", list.dump(1).c_str());
}

void Measure(const Options& options, const std::string& folder) {
  const std::string model = folder + "/model";
  std::filesystem::create_directory(model);
  ModelConfig config = Shape125M();
  config.positions_max = 2 * options.context;
  const absl::Status written = WriteRandomCheckpoint(model, config, kernels::DType::kBF16, 1);
  CHECK(written.ok()) << written;

  const auto start_worker = [&](const std::string& name, std::vector<std::string> flags) {
    flags.insert(flags.end(), {"--model", absl::StrCat(kModel, "=", model), "--cache-dir",
                               folder + "/cache", "--threads", absl::StrCat(options.threads),
                               "--blocks", absl::StrCat(options.context / 8)});
    return std::make_unique<Server>("chorale-decode", folder + "/" + name, std::move(flags));
  };
  const auto on_socket = [&](const std::string& name) {
    return absl::StrCat("unix:", folder, "/", name, ".sock");
  };
  Server store("chorale-kvstore", folder + "/store", {"--listen", on_socket("store")});
  const auto sharing =
      start_worker("sharing", {"--listen", on_socket("sharing"), "--store", store.address()});
  const auto remote = start_worker("remote", {"--listen", "127.0.0.1:0", "--no-shared-memory"});
  const auto asked = start_worker("asked", {"--listen", on_socket("asked")});
  for (const Server* worker : {sharing.get(), remote.get(), asked.get()}) AwaitReady(*worker);

  const std::vector<int> context = RandomTokens(0, options.context);
  std::vector<int> next = context;
  const std::vector<int> more = RandomTokens(1, options.more);
  next.insert(next.end(), more.begin(), more.end());
  const int blocks = options.context / kernels::kBlockTokens;
  Ask(*sharing, context, "");
  Ask(*remote, context, "");
  Server::Await([&] { return BlocksIn(store) >= blocks; });

  std::vector<Way> ways = {{"read from the worker's memory", sharing->address()},
                           {"pulled over TCP", remote->address()},
                           {"taken from a store", store.address()},
                           {"computed again", ""}};
  // The first round, which is not counted, tells of the memory that is shared.
  for (int round = 0; round <= options.rounds; ++round) {
    for (size_t i = 0; i < ways.size(); ++i) {
      Way& way = ways[(i + round) % ways.size()];
      const Answer answer = Continue(*asked, next, way, blocks * kernels::kBlockTokens);
      if (round > 0) way.ms.push_back(answer.first_token_ms);
      std::fprintf(stderr, "round %d, %s: %.1f ms\n", round, way.name.c_str(),
                   answer.first_token_ms);
    }
  }
  Print(ways, options);
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("bench_continue_elsewhere: a context is continued on another worker (125 M, bf16)");
  app.add_option("--context", options.context, "tokens that the first worker wrote")
      ->capture_default_str()
      ->check(CLI::Range(64, 1 << 20));
  app.add_option("--more", options.more, "tokens behind them")
      ->capture_default_str()
      ->check(CLI::Range(1, 32));
  app.add_option("--rounds", options.rounds, "of all ways")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app.add_option("--threads", options.threads, "of a worker; 0: one for every processor")
      ->check(CLI::Range(0, 1024));
  app.add_flag("--json", options.json, "print a list of JSON objects");
  app.add_option("--machine", options.machine, "named in the JSON");
  app.add_option("--commit", options.commit, "named in the JSON");
  CLI11_PARSE(app, argc, argv);
  std::string folder =
      (std::filesystem::temp_directory_path() / "chorale-continue-XXXXXX").string();
  CHECK(mkdtemp(folder.data()) != nullptr) << folder;
  Measure(options, folder);
  std::filesystem::remove_all(folder);
  return 0;
}

}  // namespace
}  // namespace chorale::bench

int main(int argc, char** argv) { return chorale::bench::Main(argc, argv); }
