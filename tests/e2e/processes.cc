#include "tests/e2e/processes.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "rpc/channels.h"
#include "rpc/deadline.h"

namespace chorale {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kPatience = absl::Seconds(60);

}  // namespace

bool WaitFor(const std::function<bool()>& done) {
  const absl::Time give_up = absl::Now() + kPatience;
  while (!done()) {
    if (absl::Now() > give_up) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

Process::Process(const std::string& program, const std::vector<std::string>& arguments,
                 const std::string& log_path) {
  const std::string path = absl::StrCat(CHORALE_BINARY_FOLDER, "/", program);
  std::vector<std::string> words = {path};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  // Nothing of a test is kept in the user's cache.
  std::string cache = absl::StrCat("XDG_CACHE_HOME=", fs::path(log_path).parent_path().string());
  std::vector<char*> environment = {cache.data()};
  for (char** variable = environ; *variable != nullptr; ++variable) {
    if (!absl::StartsWith(*variable, "XDG_CACHE_HOME=")) environment.push_back(*variable);
  }
  environment.push_back(nullptr);
  pid_ = fork();
  CHECK_GE(pid_, 0);
  if (pid_ != 0) return;
  const int log = open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  dup2(log, STDOUT_FILENO);
  dup2(log, STDERR_FILENO);
  execve(path.c_str(), argv.data(), environment.data());
  _exit(127);
}

Process::~Process() {
  if (!running()) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

void Process::Signal(int signal) { kill(pid_, signal); }

int Process::Wait() {
  int status = 0;
  CHECK(WaitFor([&] { return waitpid(pid_, &status, WNOHANG) == pid_; })) << "pid " << pid_;
  pid_ = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

bool Process::running() {
  if (pid_ < 0) return false;
  if (waitpid(pid_, nullptr, WNOHANG) != pid_) return true;
  pid_ = -1;
  return false;
}

std::map<std::string, std::string> ReadAddressFile(const std::string& path) {
  CHECK(WaitFor([&] { return std::filesystem::exists(path); })) << path;
  std::map<std::string, std::string> addresses;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    const size_t equals = line.find('=');
    addresses[line.substr(0, equals)] = line.substr(equals + 1);
  }
  return addresses;
}

TestCluster::TestCluster(const ClusterOptions& options) : options_(options) {
  if (options_.redis) redis_ = std::make_unique<RedisProcess>(options_.redis_flags);
  for (int i = 0; i < options_.stores; ++i) StartStore(absl::StrCat("store-", i));
  StartOrchestrator();
  for (int i = 0; i < options_.prefill; ++i) StartWorker(absl::StrCat("prefill-", i));
  for (int i = 0; i < options_.decode; ++i) StartWorker(absl::StrCat("decode-", i));
  const std::string file = folder() + "/router.address";
  std::vector<std::string> flags = {"--listen",       "127.0.0.1:0",
                                    "--http",         "127.0.0.1:0",
                                    "--orchestrator", SocketOf("orchestrator"),
                                    "--address-file", file};
  if (redis_ != nullptr) flags.insert(flags.end(), {"--redis", redis_->url().ToString()});
  flags.insert(flags.end(), options_.router_flags.begin(), options_.router_flags.end());
  router_ = std::make_unique<Process>("chorale-router", flags, LogOf("router"));
  std::map<std::string, std::string> addresses = ReadAddressFile(file);
  http_ = addresses["http"];
  grpc_ = addresses["grpc"];
  inference_ = v1::Inference::NewStub(OpenChannel(grpc_));
  control_ = v1::Control::NewStub(OpenChannel(SocketOf("orchestrator")));
  WaitForWorkers(options_.prefill + options_.decode);
  CHECK(WaitFor([&] {  // the router has the table too
    grpc::ClientContext context;
    v1::ListModelsResponse models;
    return inference_->ListModels(&context, {}, &models).ok() && models.models_size() > 0 &&
           models.models(0).decode_workers() == options_.decode &&
           models.models(0).prefill_workers() == options_.prefill;
  }));
}

TestCluster::~TestCluster() {
  if (!testing::Test::HasFailure()) return;
  for (const auto& entry : std::filesystem::directory_iterator(folder())) {
    if (entry.path().extension() != ".log") continue;
    std::ifstream in(entry.path());
    fprintf(stderr, "---- %s\n%s\n", entry.path().filename().c_str(),
            std::string(std::istreambuf_iterator<char>(in), {}).c_str());
  }
}

std::string TestCluster::SocketOf(const std::string& name) const {
  return absl::StrCat("unix:", folder_.path(), "/", name, ".sock");
}

std::string TestCluster::LogOf(const std::string& name) const {
  return absl::StrCat(folder_.path(), "/", name, ".log");
}

void TestCluster::StartOrchestrator() {
  orchestrator_ = std::make_unique<Process>(
      "chorale-orchestrator",
      std::vector<std::string>{"--listen", SocketOf("orchestrator"), "--silence-ms", "2000"},
      LogOf("orchestrator"));
}

void TestCluster::StartWorker(const std::string& id) {
  const bool prefill = id.rfind("prefill", 0) == 0;
  std::vector<std::string> flags = {
      "--listen", SocketOf(id), "--orchestrator", SocketOf("orchestrator"), "--worker-id", id};
  if (options_.family_folder.empty()) {
    flags.insert(flags.end(), {"--model", "m=" + options_.model_folder});
  } else {
    flags.insert(flags.end(), {"--models", options_.family_folder});
  }
  for (int i = 0; i < options_.stores; ++i) {
    flags.insert(flags.end(), {"--store", SocketOf(absl::StrCat("store-", i))});
  }
  const auto& more = prefill ? options_.prefill_flags : options_.decode_flags;
  flags.insert(flags.end(), options_.worker_flags.begin(), options_.worker_flags.end());
  flags.insert(flags.end(), more.begin(), more.end());
  workers_[id] =
      std::make_unique<Process>(prefill ? "chorale-prefill" : "chorale-decode", flags, LogOf(id));
}

void TestCluster::StartStore(const std::string& id) {
  std::vector<std::string> flags = {"--listen", SocketOf(id)};
  if (options_.store_disk) flags.insert(flags.end(), {"--dir", StoreFolder(id)});
  if (redis_ != nullptr) flags.insert(flags.end(), {"--redis", redis_->url().ToString()});
  flags.insert(flags.end(), options_.store_flags.begin(), options_.store_flags.end());
  std::unique_ptr<Process>& process = stores_[id];
  process = std::make_unique<Process>("chorale-kvstore", flags, LogOf(id));
  CHECK(WaitFor([&] {
    CHECK(process->running()) << id << " has ended, see " << LogOf(id);
    auto stub = v1::Blocks::NewStub(OpenChannel(SocketOf(id)));
    grpc::ClientContext context;
    v1::StatBlocksReply reply;
    return stub->Stat(&context, {}, &reply).ok();
  })) << id;
}

void TestCluster::WaitForWorkers(int ready) {
  int seen = 0;
  CHECK(WaitFor([&] {
    grpc::ClientContext context;
    // gRPC goes on connecting while somebody waits for a call; else it looks every five seconds.
    context.set_wait_for_ready(true);
    SetDeadline(context, absl::Now() + absl::Seconds(1));
    v1::RoutingTable table;
    if (!control_->GetRouting(&context, {}, &table).ok()) return false;
    seen = 0;
    for (const v1::WorkerReport& worker : table.workers()) seen += worker.ready();
    return seen == ready;
  })) << seen
      << " workers are ready";
}

void TestCluster::WaitForModel(const std::string& name) {
  CHECK(WaitFor([&] {
    grpc::ClientContext context;
    v1::ListModelsResponse response;
    if (!inference_->ListModels(&context, {}, &response).ok()) return false;
    return std::any_of(response.models().begin(), response.models().end(), [&](const auto& model) {
      return model.name() == name && model.decode_workers() == options_.decode;
    });
  })) << name;
}

v1::WorkerStatusResponse TestCluster::Status(const std::string& id) {
  auto stub = v1::WorkerControl::NewStub(OpenChannel(SocketOf(id)));
  grpc::ClientContext context;
  v1::WorkerStatusResponse response;
  const grpc::Status status = stub->Status(&context, {}, &response);
  CHECK(status.ok()) << id << ": " << status.error_message();
  return response;
}

std::map<std::string, int64_t> TestCluster::Metrics(const std::string& id) {
  const v1::WorkerStatusResponse status = Status(id);
  return {status.engine().begin(), status.engine().end()};
}

v1::StatBlocksReply TestCluster::BlockStat(const std::string& id) {
  auto stub = v1::Blocks::NewStub(OpenChannel(SocketOf(id)));
  grpc::ClientContext context;
  v1::StatBlocksReply reply;
  const grpc::Status status = stub->Stat(&context, {}, &reply);
  CHECK(status.ok()) << id << ": " << status.error_message();
  return reply;
}

bool TestCluster::AllBlocksComeBack() {
  bool balanced = true;
  for (const auto& [id, process] : workers_) {
    if (!process->running()) continue;
    std::map<std::string, int64_t> m;
    const bool idle = WaitFor([&] {
      m = Metrics(id);
      balanced &= m["blocks_free"] + m["blocks_held"] == m["blocks_total"];
      return m["blocks_held"] == 0 && m["requests_live"] == 0;
    });
    if (!idle) ADD_FAILURE() << id << " holds " << m["blocks_held"] << " blocks";
  }
  return balanced;
}

namespace {

Generation ReadAll(grpc::ClientContext& context, grpc::ClientReader<v1::GenerateChunk>& reader,
                   int chunks_max) {
  Generation result;
  v1::GenerateChunk chunk;
  int64_t chunks = 0;
  while (reader.Read(&chunk)) {
    EXPECT_EQ(chunk.sequence_number(), chunks++);
    std::vector<int>& tokens = result.tokens[chunk.index()];
    tokens.insert(tokens.end(), chunk.token_ids().begin(), chunk.token_ids().end());
    result.text[chunk.index()] += chunk.text();
    if (chunk.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) {
      result.finish[chunk.index()] = chunk.finish_reason();
    }
    if (chunk.has_usage()) result.usage = chunk.usage();
    if (chunk.has_timing()) result.timing = chunk.timing();
    if (chunks >= chunks_max) context.TryCancel();
  }
  result.status = reader.Finish();
  return result;
}

}  // namespace

Generation Generate(v1::Inference::Stub& stub, const v1::GenerateRequest& request, int chunks_max,
                    absl::Duration timeout) {
  grpc::ClientContext context;
  SetDeadline(context, absl::Now() + timeout);
  return ReadAll(context, *stub.Generate(&context, request), chunks_max);
}

Generation Generate(v1::Decode::Stub& stub, const v1::DecodeRequest& request) {
  grpc::ClientContext context;
  SetDeadline(context, absl::Now() + kPatience);
  return ReadAll(context, *stub.Generate(&context, request), 1 << 30);
}

}  // namespace chorale
