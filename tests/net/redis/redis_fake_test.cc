// What a server that is not Redis, or a broken one, can do to us: nothing.
#include <atomic>
#include <filesystem>
#include <functional>
#include <random>
#include <thread>

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/check.h"
#include "base/random.h"
#include "services/kvstore/redis/redis_tier.h"
#include "services/router/redis_directory.h"
#include "tests/net/redis/redis_fixture.h"

namespace chorale {
namespace {

constexpr absl::Duration kLong = absl::Seconds(20);

// Answers each piece that it receives with what `answer` makes of it; nothing: hangs up.
class FakeServer {
 public:
  using AnswerFn = std::function<std::string(std::string_view asked)>;
  // On a unix socket, or on a free TCP port of 127.0.0.1.
  explicit FakeServer(AnswerFn answer, bool tcp = false) : answer_(std::move(answer)) {
    std::string folder = (std::filesystem::temp_directory_path() / "chorale_fake_XXXXXX").string();
    CHECK(mkdtemp(folder.data()) != nullptr);
    folder_ = folder;
    if (tcp) {
      Listen(sockaddr_in{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}});
      sockaddr_in address{};
      socklen_t bytes = sizeof(address);
      CHECK(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &bytes) == 0);
      url_.servers.push_back({.host = "127.0.0.1", .port = ntohs(address.sin_port)});
    } else {
      sockaddr_un address{.sun_family = AF_UNIX};
      const std::string path = folder_ + "/socket";
      path.copy(address.sun_path, sizeof(address.sun_path) - 1);
      Listen(address);
      url_.servers.push_back({.unix_path = path});
    }
    thread_ = std::thread([this] { Run(); });
  }
  ~FakeServer() {
    stopping_ = true;
    thread_.join();
    for (const pollfd& open : open_) close(open.fd);
    std::filesystem::remove_all(folder_);
  }
  const RedisUrl& url() const { return url_; }

 private:
  template <typename Address>
  void Listen(const Address& address) {
    const auto* any = reinterpret_cast<const sockaddr*>(&address);
    listener_ = socket(any->sa_family, SOCK_STREAM, 0);
    CHECK(bind(listener_, any, sizeof(address)) == 0);
    CHECK(listen(listener_, 100) == 0);
  }
  void Run() {
    open_.push_back({.fd = listener_, .events = POLLIN});
    while (!stopping_) {
      poll(open_.data(), open_.size(), 10);
      for (size_t i = open_.size(); i-- > 0;) {
        if (open_[i].revents == 0) continue;
        if (i == 0) {
          open_.push_back({.fd = accept(listener_, nullptr, nullptr), .events = POLLIN});
        } else if (!Serve(open_[i].fd)) {
          close(open_[i].fd);
          open_.erase(open_.begin() + static_cast<std::ptrdiff_t>(i));
        }
      }
    }
  }
  bool Serve(int fd) {
    char buffer[65536];
    const ssize_t bytes = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);
    if (bytes <= 0) return false;
    const std::string text = answer_({buffer, static_cast<size_t>(bytes)});
    return !text.empty() && send(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT) > 0;
  }

  const AnswerFn answer_;
  std::string folder_;
  RedisUrl url_;
  int listener_ = -1;
  std::vector<pollfd> open_;  // the thread's; the first is the listener
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

RedisOptions QuickOptions(const RedisUrl& url) {
  return {.url = url,
          .timeout = absl::Milliseconds(50),
          .pause_min = absl::Milliseconds(1),
          .pause_max = absl::Milliseconds(2)};
}

// A single server as far as the prober sees.
constexpr char kSingle[] = ":0\r\n-ERR This instance has cluster support disabled\r\n";

bool IsProbe(std::string_view asked) { return asked.find("SLOTS") != asked.npos; }

TEST(RedisFakeTest, OutlivesRandomBytes) {
  const uint64_t seed = std::random_device{}();
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  std::atomic<uint64_t> draws{0};
  // Pieces of the protocol, cut, joined and spoilt.
  const std::vector<std::string> pieces = {
      "*2\r\n",
      "*-1\r\n",
      "$-1\r\n",
      "$5\r\nhello\r\n",
      ":1\r\n",
      "+OK\r\n",
      "-ERR x\r\n",
      "-MOVED 1 a:1\r\n",
      "-ASK 99999 :0\r\n",
      "*2147483647\r\n",
      "*-2\r\n",
      "$99999999999\r\n",
      "$-7\r\n",
      ":99999999999999999999\r\n",
      "%3\r\n",
      "~1\r\n",
      "|1\r\n",
      ">2\r\n",
      ",1.5\r\n",
      "#t\r\n",
      "(123\r\n",
      "=7\r\ntxt:abc\r\n",
      "_\r\n",
      "-OOM x\r\n",
      "-LOADING x\r\n",
      "\r\n",
      "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
      "$300000000\r\nabc"};
  const auto answer = [&](std::string_view asked) {
    std::string out = IsProbe(asked) && RandomBits(seed, 1, draws++) % 4 != 0 ? kSingle : "";
    if (!out.empty()) return out;
    const uint64_t count = 1 + RandomBits(seed, 1, draws++) % 20;
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t r = RandomBits(seed, 2, draws++);
      out +=
          r % 8 == 0 ? std::string(1, static_cast<char>(r >> 8)) : pieces[(r >> 8) % pieces.size()];
    }
    return out;
  };
  FakeServer server(answer);
  Redis redis(QuickOptions(server.url()));
  RedisTier tier(redis, {});
  RedisDirectory directory(redis, {.lease = absl::Milliseconds(30)});
  std::vector<BlockKey> keys;
  for (int i = 0; i < 10; ++i) keys.push_back(TestKey(i));
  const auto bytes = TestBytes(1, 5000);
  EXPECT_TRUE(Eventually([&] {
    for (const auto& block : tier.Get(keys, absl::Milliseconds(50)))
      EXPECT_FALSE(block.has_value());
    tier.Put(keys[0], {}, bytes);
    directory.Announce("a", 1, keys, {});
    EXPECT_LE(directory.Find(keys, absl::Milliseconds(50)).size(), 100u);
    return redis.counters().commands > 1000;
  }));
}

TEST(RedisFakeTest, GivesUpOnAServerThatNeverStopsTalking) {
  const auto answer = [](std::string_view asked) {
    if (IsProbe(asked)) return std::string(kSingle);
    return "$100000000\r\n" + std::string(50'000, 'x');
  };
  FakeServer server(answer);
  RedisOptions options = QuickOptions(server.url());
  options.limits.bytes_max = 20'000;
  Redis redis(options);
  ASSERT_TRUE(redis.AwaitState(RedisState::kOk, kLong));
  const RedisCommand command{.words = {"GET", "x"}};
  const std::vector<RedisReply> replies = redis.Execute({&command, 1}, kLong);
  EXPECT_EQ(replies[0].kind, RedisReply::Kind::kNone);
  EXPECT_NE(replies[0].text.find("20000 bytes"), std::string::npos) << replies[0].text;
}

// The reply to the prober of a cluster that is all at `port`.
std::string MapTo(int port) {
  return ":0\r\n*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:" + std::to_string(port) +
         "\r\n";
}

TEST(RedisFakeTest, FollowsRedirectsOnlySoFar) {
  std::atomic<int> port{0};
  const auto answer = [&](std::string_view asked) -> std::string {
    if (IsProbe(asked)) return MapTo(port);
    return "-MOVED 1 127.0.0.1:" + std::to_string(port) + "\r\n";
  };
  FakeServer server(answer, /*tcp=*/true);
  port = server.url().servers[0].port;
  Redis redis(QuickOptions(server.url()));
  ASSERT_TRUE(redis.AwaitState(RedisState::kOk, kLong));
  const RedisCommand command{.words = {"GET", "x"}};
  EXPECT_TRUE(Eventually([&] {
    return redis.Execute({&command, 1}, kLong)[0].text == "redirected too often";
  }));
}

TEST(RedisFakeTest, LeavesAClusterWhoseMasterCannotBeReachedAlone) {
  // Nobody listens at port 1.
  FakeServer server([](std::string_view) { return MapTo(1); });
  Redis redis(QuickOptions(server.url()));
  const RedisCommand command{.words = {"GET", "x"}};
  EXPECT_TRUE(Eventually([&] {
    EXPECT_EQ(redis.Execute({&command, 1}, kLong)[0].kind, RedisReply::Kind::kNone);
    return redis.state() == RedisState::kGone;
  }));
}

TEST(RedisFakeTest, TellsAServerThatHangsUpFromOneThatLoads) {
  FakeServer hangs_up([](std::string_view) { return std::string(); });
  Redis gone(QuickOptions(hangs_up.url()));
  EXPECT_TRUE(gone.AwaitState(RedisState::kGone, kLong));
  FakeServer loads(
      [](std::string_view) { return std::string("-LOADING wait\r\n-LOADING wait\r\n"); });
  Redis loading(QuickOptions(loads.url()));
  EXPECT_TRUE(loading.AwaitState(RedisState::kLoading, kLong));
}

TEST(RedisFakeTest, NamesAHostThatIsNotFoundAsGone) {
  RedisUrl url;
  url.servers.push_back({.host = "no-such-host.invalid"});
  Redis redis(QuickOptions(url));
  EXPECT_TRUE(redis.AwaitState(RedisState::kGone, kLong));
}

}  // namespace
}  // namespace chorale
