#include "net/redis/servers.h"

#include <algorithm>
#include <set>
#include <utility>

#include <arpa/inet.h>
#include <netdb.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "process/log.h"

namespace chorale {
namespace {

MonotonicTime Now() { return std::chrono::steady_clock::now(); }

bool IsNumber(const std::string& host) {
  unsigned char bytes[sizeof(in6_addr)];
  return inet_pton(AF_INET, host.c_str(), bytes) == 1 ||
         inet_pton(AF_INET6, host.c_str(), bytes) == 1;
}

void LogChange(const RedisServer& server, RedisState from, RedisState to, std::string_view why) {
  const std::string name = absl::StrCat("redis ", server.address().ToString());
  if (to == RedisState::kOk) {
    LogInfo(name, from == RedisState::kConnecting ? ": ok" : ": ok again");
  } else {
    LogWarning(name, ": ", RedisStateName(to), " (", std::string(why),
               "); serving goes on without it");
  }
}

}  // namespace

RedisServer::RedisServer(RedisAddress address, const RedisHealth& health)
    : address_(std::move(address)), health_(health) {
  if (IsNumber(address_.host)) number_ = address_.host;
}

RedisServers::RedisServers(Options options) : options_(std::move(options)) {
  for (const RedisAddress& address : options_.url.servers) Enter(address);
}

RedisServerPtr RedisServers::Enter(const RedisAddress& address) {
  const auto found = servers_.find(address);
  if (found != servers_.end()) return found->second;
  if (static_cast<int>(servers_.size()) >= options_.servers_max) return nullptr;
  // A server that others speak of is taken to be well when it can be reached without asking the
  // system for its name.
  const bool known = !slots_.empty() && IsNumber(address.host);
  const RedisHealth health(options_.health, known ? RedisState::kOk : RedisState::kConnecting);
  const RedisServerPtr server(new RedisServer(address, health));
  servers_.emplace(address, server);
  return server;
}

RedisServerPtr RedisServers::OfKey(std::string_view key) const {
  const size_t slot = static_cast<size_t>(RedisSlotOf(key));
  std::lock_guard lock(mutex_);
  if (single_ != nullptr) return single_;
  return slots_.empty() ? nullptr : slots_[slot];
}

RedisServerPtr RedisServers::OfAddress(const RedisAddress& address) {
  std::lock_guard lock(mutex_);
  return Enter(address);
}

std::vector<std::string> RedisServers::KeyOfEachServer(std::string_view prefix) const {
  std::lock_guard lock(mutex_);
  if (single_ != nullptr) return {absl::StrCat(std::string(prefix), "{0}")};
  const std::set<RedisServerPtr> all(slots_.begin(), slots_.end());
  std::set<RedisServerPtr> found;
  std::vector<std::string> keys;
  // A server with one slot in a hundred is found within some hundred tries.
  constexpr int kTriesMax = 4096;
  for (int i = 0; i < kTriesMax && found.size() < all.size(); ++i) {
    std::string key = absl::StrCat(std::string(prefix), "{", i, "}");
    const RedisServerPtr& server = slots_[static_cast<size_t>(RedisSlotOf(key))];
    if (found.insert(server).second) keys.push_back(std::move(key));
  }
  return keys;
}

void RedisServers::BecomeSingle(const RedisServerPtr& server) {
  std::lock_guard lock(mutex_);
  if (single_ == server) return;
  if (options_.url.servers.size() > 1) {
    LogWarning("redis ", server->address().ToString(),
               " is not a cluster; it alone is used of the hosts in ", options_.url.ToString());
  }
  servers_.clear();
  slots_.clear();
  servers_.emplace(server->address(), server);
  single_ = server;
  changed_.notify_all();
}

void RedisServers::BecomeCluster(std::span<const RedisSlotRange> ranges) {
  std::lock_guard lock(mutex_);
  single_ = nullptr;
  slots_.resize(kRedisSlots);
  std::vector<RedisServerPtr> slots(kRedisSlots);
  std::map<RedisAddress, RedisServerPtr> servers;
  for (const RedisSlotRange& range : ranges) {
    const RedisServerPtr server = Enter(range.master);
    if (server == nullptr) continue;
    servers.emplace(range.master, server);
    std::fill(slots.begin() + range.first, slots.begin() + range.last + 1, server);
  }
  slots_ = std::move(slots);
  servers_ = std::move(servers);
  changed_.notify_all();
}

void RedisServers::MoveSlot(int slot, const RedisServerPtr& server) {
  std::lock_guard lock(mutex_);
  if (!slots_.empty()) slots_[static_cast<size_t>(slot)] = server;
}

bool RedisServers::IsCluster() const {
  std::lock_guard lock(mutex_);
  return !slots_.empty();
}

absl::StatusOr<std::unique_ptr<RedisConnection>> RedisServers::Connect(const RedisServerPtr& server,
                                                                       bool fresh) {
  RedisAddress address = server->address_;
  std::vector<std::unique_ptr<RedisConnection>> stale;  // closed after the lock is given back
  {
    std::lock_guard lock(mutex_);
    while (!fresh && !server->idle_.empty()) {
      std::unique_ptr<RedisConnection> connection = std::move(server->idle_.back());
      server->idle_.pop_back();
      if (connection->IsIdle()) return connection;
      stale.push_back(std::move(connection));
    }
    if (address.unix_path.empty()) address.host = server->number_;
  }
  if (address.unix_path.empty() && address.host.empty()) {
    return absl::UnavailableError(
        absl::StrCat("the name ", server->address_.host, " is not resolved yet"));
  }
  return RedisConnection::Start(address, options_.url, options_.limits);
}

void RedisServers::Return(const RedisServerPtr& server,
                          std::unique_ptr<RedisConnection> connection) {
  std::lock_guard lock(mutex_);
  if (static_cast<int>(server->idle_.size()) < options_.idle_connections_max &&
      server->health_.MayRead()) {
    server->idle_.push_back(std::move(connection));
  }
}

absl::Status RedisServers::Resolve(const RedisServerPtr& server) {
  const RedisAddress& address = server->address_;
  if (!address.unix_path.empty() || IsNumber(address.host)) return absl::OkStatus();
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(address.host.c_str(), nullptr, &hints, &list);
  if (error != 0) {
    return absl::UnavailableError(
        absl::StrCat("host ", address.host, " is not found: ", gai_strerror(error)));
  }
  char number[NI_MAXHOST] = "";
  const int named = getnameinfo(list->ai_addr, list->ai_addrlen, number, sizeof(number), nullptr, 0,
                                NI_NUMERICHOST);
  freeaddrinfo(list);
  if (named != 0) {
    return absl::UnavailableError(absl::StrCat("host ", address.host, ": ", gai_strerror(named)));
  }
  std::lock_guard lock(mutex_);
  server->number_ = number;
  return absl::OkStatus();
}

bool RedisServers::Admits(const RedisServerPtr& server, bool write, bool start) {
  const MonotonicTime now = Now();
  std::lock_guard lock(mutex_);
  if (!write) return server->health_.MayRead();
  if (!server->health_.MayWrite(now)) return false;
  if (start) server->health_.StartWrite(now);
  return true;
}

template <typename Change>
void RedisServers::ChangeHealth(const RedisServerPtr& server, std::string_view why, Change change) {
  std::vector<std::unique_ptr<RedisConnection>> stale;
  std::lock_guard lock(mutex_);
  const RedisState before = server->health_.state();
  change(server->health_);
  const RedisState after = server->health_.state();
  if (!server->health_.MayRead()) stale.swap(server->idle_);
  // Who is not in the table, such as a replica that gave us the map, is of no interest.
  const auto row = servers_.find(server->address_);
  if (before == after || row == servers_.end() || row->second != server) return;
  ++state_changes_;
  LogChange(*server, before, after, why);
  changed_.notify_all();
}

void RedisServers::OnAnswer(const RedisServerPtr& server, bool write) {
  ChangeHealth(server, "", [&](RedisHealth& health) { health.OnAnswer(write); });
}

void RedisServers::OnFailure(const RedisServerPtr& server, RedisState state, std::string_view why) {
  ChangeHealth(server, why, [&](RedisHealth& health) { health.OnFailure(state, Now()); });
}

void RedisServers::OnImpatience(const RedisServerPtr& server) {
  ChangeHealth(server, "several callers had no answer in their time",
               [&](RedisHealth& health) { health.OnImpatience(Now()); });
}

std::vector<RedisServerPtr> RedisServers::DueForProbe() {
  const MonotonicTime now = Now();
  std::lock_guard lock(mutex_);
  const bool any_good = std::any_of(servers_.begin(), servers_.end(),
                                    [](const auto& row) { return row.second->health_.MayRead(); });
  // Those of the URL that answer may be no masters any more, and leave the table again.
  if (!any_good && single_ == nullptr && now >= reenter_next_) {
    reenter_next_ = now + options_.health.pause_max;
    for (const RedisAddress& address : options_.url.servers) Enter(address);
  }
  std::vector<RedisServerPtr> due;
  for (const auto& [address, server] : servers_) {
    if (!server->health_.MayRead() && now >= server->health_.next_try()) due.push_back(server);
  }
  return due;
}

RedisServerPtr RedisServers::AnyGood() const {
  std::lock_guard lock(mutex_);
  for (const auto& [address, server] : servers_) {
    if (server->health_.MayRead()) return server;
  }
  return nullptr;
}

RedisState RedisServers::WorstState() const {
  RedisState worst = RedisState::kOk;
  for (const auto& [address, server] : servers_) {
    worst = std::max(worst, server->health_.state());
  }
  const bool has_map = single_ != nullptr || !slots_.empty();
  return has_map || worst > RedisState::kReadOnly ? worst : RedisState::kConnecting;
}

RedisState RedisServers::state() const {
  std::lock_guard lock(mutex_);
  return WorstState();
}

bool RedisServers::AwaitState(RedisState state, MonotonicDuration timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, timeout, [&] { return WorstState() == state; });
}

int64_t RedisServers::state_changes() const {
  std::lock_guard lock(mutex_);
  return state_changes_;
}

}  // namespace chorale
