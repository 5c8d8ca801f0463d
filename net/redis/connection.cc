#include "net/redis/connection.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

constexpr size_t kReadBytes = 256 << 10;
constexpr int kReadsPerStep = 16;       // so that a flood does not outrun the deadline
constexpr size_t kCopyBytesMax = 4096;  // longer words are sent from where they lie
constexpr size_t kPiecesPerWrite = 64;

absl::Status Lost(std::string_view what) {
  return absl::UnavailableError(absl::StrCat(std::string(what), ": ", std::strerror(errno)));
}

bool WouldBlock() { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

}  // namespace

absl::StatusOr<std::unique_ptr<RedisConnection>> RedisConnection::Start(
    const RedisAddress& server, const RedisUrl& login, const RedisReplyLimits& limits) {
  redisContext* context = server.unix_path.empty()
                              ? redisConnectNonBlock(server.host.c_str(), server.port)
                              : redisConnectUnixNonBlock(server.unix_path.c_str());
  if (context == nullptr) return absl::ResourceExhaustedError("connect: out of memory");
  std::unique_ptr<RedisConnection> connection(new RedisConnection(context, limits));
  if (context->err != 0) return absl::UnavailableError(absl::StrCat("connect: ", context->errstr));
  fcntl(context->fd, F_SETFD, FD_CLOEXEC);
  if (server.unix_path.empty()) {
    const int on = 1;
    setsockopt(context->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  }
  if (!login.password.empty()) {
    std::vector<std::string> words = {"AUTH"};
    if (!login.user.empty()) words.push_back(login.user);
    words.push_back(login.password);
    connection->AppendWords(words);
    connection->awaited_.push_back(Awaited::kLogin);
  }
  if (login.database != 0) {
    connection->AppendWords(std::vector<std::string>{"SELECT", absl::StrCat(login.database)});
    connection->awaited_.push_back(Awaited::kLogin);
  }
  return connection;
}

RedisConnection::RedisConnection(redisContext* context, const RedisReplyLimits& limits)
    : context_(context), reader_(limits), buffer_(new char[kReadBytes]) {}

RedisConnection::~RedisConnection() { redisFree(context_); }

int RedisConnection::fd() const { return context_->fd; }

int16_t RedisConnection::events() const {
  if (connecting_) return POLLOUT;
  return static_cast<int16_t>((awaited_.empty() ? 0 : POLLIN) | (unsent_.empty() ? 0 : POLLOUT));
}

bool RedisConnection::IsIdle() const {
  pollfd poll_fd{.fd = fd(), .events = POLLIN};
  return done() && poll(&poll_fd, 1, 0) == 0;
}

void RedisConnection::Append(std::string_view bytes) {
  texts_.emplace_back(bytes);
  unsent_.push_back({texts_.back().data(), texts_.back().size()});
}

void RedisConnection::AppendWords(std::span<const std::string> words) {
  std::string text = absl::StrCat("*", words.size(), "\r\n");
  for (const std::string& word : words) {
    absl::StrAppend(&text, "$", word.size(), "\r\n");
    if (word.size() > kCopyBytesMax) {
      Append(text);
      unsent_.push_back({const_cast<char*>(word.data()), word.size()});
      text.clear();
    } else {
      text += word;
    }
    text += "\r\n";
  }
  Append(text);
}

void RedisConnection::Queue(const RedisCommand& command, bool asking) {
  if (asking) {
    Append("*1\r\n$6\r\nASKING\r\n");
    awaited_.push_back(Awaited::kAsking);
  }
  AppendWords(command.words);
  awaited_.push_back(Awaited::kCommand);
}

absl::StatusOr<bool> RedisConnection::Step() {
  if (connecting_) {
    ASSIGN_OR_RETURN(const bool connected, FinishConnecting());
    if (!connected) return false;
  }
  ASSIGN_OR_RETURN(const bool wrote, Write());
  ASSIGN_OR_RETURN(const bool read, Read());
  return wrote || read;
}

absl::StatusOr<bool> RedisConnection::FinishConnecting() {
  pollfd poll_fd{.fd = fd(), .events = POLLOUT};
  if (poll(&poll_fd, 1, 0) <= 0) return false;
  int error = 0;
  socklen_t bytes = sizeof(error);
  if (getsockopt(fd(), SOL_SOCKET, SO_ERROR, &error, &bytes) != 0) error = errno;
  if (error != 0) {
    errno = error;
    return Lost("connect");
  }
  connecting_ = false;
  return true;
}

absl::StatusOr<bool> RedisConnection::Write() {
  bool any = false;
  while (!unsent_.empty()) {
    iovec pieces[kPiecesPerWrite];
    const size_t count = std::min(unsent_.size(), kPiecesPerWrite);
    std::copy_n(unsent_.begin(), count, pieces);
    msghdr message{};
    message.msg_iov = pieces;
    message.msg_iovlen = count;
    const ssize_t sent = sendmsg(fd(), &message, MSG_NOSIGNAL);
    if (sent < 0) {
      if (WouldBlock()) return any;
      return Lost("send");
    }
    any = true;
    for (size_t left = static_cast<size_t>(sent); left > 0;) {
      iovec& front = unsent_.front();
      const size_t taken = std::min(left, front.iov_len);
      front.iov_base = static_cast<char*>(front.iov_base) + taken;
      front.iov_len -= taken;
      left -= taken;
      if (front.iov_len == 0) unsent_.pop_front();
    }
  }
  texts_.clear();
  return any;
}

absl::StatusOr<bool> RedisConnection::Read() {
  bool any = false;
  for (int i = 0; i < kReadsPerStep && !awaited_.empty(); ++i) {
    const ssize_t bytes = recv(fd(), buffer_.get(), kReadBytes, 0);
    if (bytes == 0) return absl::UnavailableError("the server closed the connection");
    if (bytes < 0) {
      if (WouldBlock()) return any;
      return Lost("receive");
    }
    any = true;
    RETURN_IF_ERROR(reader_.Feed({buffer_.get(), static_cast<size_t>(bytes)}));
    while (true) {
      ASSIGN_OR_RETURN(std::optional<RedisReply> reply, reader_.Next());
      if (!reply) break;
      RETURN_IF_ERROR(Sort(*std::move(reply)));
    }
  }
  return any;
}

absl::Status RedisConnection::Sort(RedisReply reply) {
  if (awaited_.empty()) return absl::DataLossError("a reply to nothing that was asked");
  const Awaited awaited = awaited_.front();
  awaited_.pop_front();
  if (awaited == Awaited::kCommand) {
    replies_.push_back(std::move(reply));
  } else if (awaited == Awaited::kLogin && reply.kind == RedisReply::Kind::kError) {
    if (StateOfRedisError(reply.text) == RedisState::kLoading) {
      return absl::UnavailableError(reply.text);
    }
    return absl::PermissionDeniedError(
        absl::StrCat("login: ", reply.text,
                     "; give user, password and database as redis://user:password@host/0"));
  }
  return absl::OkStatus();
}

std::vector<RedisReply> RedisConnection::TakeReplies() { return std::exchange(replies_, {}); }

void RunTurns(std::span<RedisTurn> turns, MonotonicTime deadline, MonotonicDuration silence_max) {
  using std::chrono::steady_clock;
  const MonotonicTime begin = steady_clock::now();
  std::vector<MonotonicTime> silent_since(turns.size(), begin);
  std::vector<bool> ended(turns.size(), false);
  std::vector<pollfd> polled;
  while (true) {
    polled.clear();
    const MonotonicTime now = steady_clock::now();
    MonotonicTime wake = deadline;
    for (size_t i = 0; i < turns.size(); ++i) {
      if (ended[i]) continue;
      const absl::StatusOr<bool> moved = turns[i].connection->Step();
      if (moved.ok() && *moved) silent_since[i] = now;
      if (!moved.ok()) {
        turns[i].status = moved.status();
      } else if (turns[i].connection->done()) {
        turns[i].status = absl::OkStatus();
      } else if (now - silent_since[i] >= silence_max) {
        turns[i].status = absl::DeadlineExceededError("the server does not answer in time");
      } else if (now >= deadline) {
        turns[i].status = absl::CancelledError("the caller's time is over");
      } else {
        wake = std::min(wake, silent_since[i] + silence_max);
        polled.push_back(
            {.fd = turns[i].connection->fd(), .events = turns[i].connection->events()});
        continue;
      }
      ended[i] = true;
    }
    if (polled.empty()) return;
    const auto wait = std::chrono::ceil<std::chrono::milliseconds>(wake - steady_clock::now());
    poll(polled.data(), polled.size(),
         static_cast<int>(std::clamp<int64_t>(wait.count(), 0, 1000)));
  }
}

}  // namespace chorale
