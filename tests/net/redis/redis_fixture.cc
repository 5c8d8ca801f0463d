#include "tests/net/redis/redis_fixture.h"

#include <chrono>
#include <filesystem>
#include <thread>
#include <utility>

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/hash.h"
#include "base/random.h"

namespace chorale {
namespace {

int FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  CHECK(fd >= 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof(address);
  CHECK(bind(fd, reinterpret_cast<sockaddr*>(&address), bytes) == 0);
  CHECK(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &bytes) == 0);
  close(fd);
  return ntohs(address.sin_port);
}

}  // namespace

bool HaveRedisServer() {
  static const bool have = system("redis-server --version > /dev/null 2>&1") == 0;
  return have;
}

RedisProcess::RedisProcess(std::vector<std::string> options, bool ports)
    : options_(std::move(options)) {
  std::string folder = (std::filesystem::temp_directory_path() / "chorale_redis_XXXXXX").string();
  CHECK(mkdtemp(folder.data()) != nullptr);
  folder_ = folder;
  if (ports) {
    port_ = FreePort();
    cluster_port_ = FreePort();
  }
  Start();
}

RedisProcess::~RedisProcess() {
  Kill();
  std::filesystem::remove_all(folder_);
}

void RedisProcess::Kill() {
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void RedisProcess::Start() {
  CHECK(pid_ < 0);
  std::vector<std::string> words = {"redis-server",
                                    "--port",
                                    absl::StrCat(port_),
                                    "--bind",
                                    "127.0.0.1",
                                    "--unixsocket",
                                    folder_ + "/socket",
                                    "--dir",
                                    folder_,
                                    "--save",
                                    "",
                                    "--appendonly",
                                    "no",
                                    "--logfile",
                                    folder_ + "/log"};
  words.insert(words.end(), options_.begin(), options_.end());
  if (port_ > 0) words.insert(words.end(), {"--cluster-port", absl::StrCat(cluster_port_)});
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execvp(arguments[0], arguments.data());
    _exit(127);
  }
  CHECK(pid_ > 0);
  CHECK(Eventually([this] { return IsUp(); })) << "see " << folder_ << "/log";
}

void RedisProcess::Pause() { kill(pid_, SIGSTOP); }
void RedisProcess::Resume() { kill(pid_, SIGCONT); }

bool RedisProcess::IsUp() const {
  const RedisReply reply = Ask({"PING"});
  return reply.ok() || reply.text.starts_with("NOAUTH");
}

RedisUrl RedisProcess::url() const {
  RedisUrl url;
  if (port_ > 0) {
    url.servers.push_back({.host = "127.0.0.1", .port = port_});
  } else {
    url.servers.push_back({.unix_path = folder_ + "/socket"});
  }
  return url;
}

RedisReply RedisProcess::Ask(std::vector<std::string> words) const {
  const RedisAddress address{.unix_path = folder_ + "/socket"};
  auto connection = RedisConnection::Start(address, {}, {});
  if (!connection.ok()) return {};
  const RedisCommand command{.words = std::move(words)};
  (*connection)->Queue(command);
  RedisTurn turn{.connection = connection->get()};
  RunTurns({&turn, 1}, std::chrono::steady_clock::now() + std::chrono::seconds(20),
           std::chrono::seconds(20));
  std::vector<RedisReply> replies = (*connection)->TakeReplies();
  return replies.empty() ? RedisReply{} : std::move(replies[0]);
}

bool Eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

RedisOptions PatientOptions(const RedisUrl& url) {
  return {.url = url,
          .timeout = absl::Seconds(1),
          .pause_min = absl::Milliseconds(20),
          .pause_max = absl::Milliseconds(100)};
}

BlockKey TestKey(int i) {
  BlockKey key;
  for (size_t j = 0; j < key.bytes.size(); ++j) {
    key.bytes[j] = static_cast<uint8_t>(RandomBits(7, static_cast<uint64_t>(i), j));
  }
  return key;
}

std::vector<std::byte> TestBytes(int i, size_t size) {
  std::vector<std::byte> bytes(size);
  for (size_t j = 0; j < size; ++j) {
    bytes[j] = static_cast<std::byte>(MixBits(static_cast<uint64_t>(i) * 1'000'003 + j));
  }
  return bytes;
}

}  // namespace chorale
