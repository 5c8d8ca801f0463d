#include "net/redis/redis.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace chorale {
namespace {

constexpr int kRedirectsMax = 5;
constexpr std::chrono::milliseconds kKeeperTick{20};
// Any reply, also a redirect, tells that the server serves; in a cluster that is down it is an
// error, other than to PING.
constexpr char kProbeKey[] = "chorale:probe";

MonotonicDuration ToMonotonic(absl::Duration duration) {
  return absl::ToChronoNanoseconds(std::clamp(duration, absl::ZeroDuration(), absl::Hours(1)));
}

MonotonicTime Now() { return std::chrono::steady_clock::now(); }

RedisReply NoReply(std::string_view why) { return {.text = std::string(why)}; }

RedisServers::Options ServersOptions(const RedisOptions& options) {
  return {.url = options.url,
          .health = {.pause_min = ToMonotonic(options.pause_min),
                     .pause_max = ToMonotonic(options.pause_max)},
          .limits = options.limits};
}

}  // namespace

// A command on its way to its reply.
struct Redis::Errand {
  const RedisCommand* command = nullptr;
  RedisReply* reply = nullptr;
  RedisServerPtr server;  // set by a redirect; null: whoever has the key
  bool asking = false;
};

// What goes to one server at one time.
struct Redis::Visit {
  RedisServerPtr server;
  std::unique_ptr<RedisConnection> connection;
  std::vector<Errand*> errands;
};

Redis::Redis(RedisOptions options)
    : options_(std::move(options)),
      servers_(ServersOptions(options_)),
      keeper_([this] { Keep(); }) {}

Redis::~Redis() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  keeper_.join();
}

std::vector<RedisReply> Redis::Execute(std::span<const RedisCommand> commands,
                                       absl::Duration timeout) {
  const MonotonicTime deadline = Now() + ToMonotonic(timeout);
  std::vector<RedisReply> replies(commands.size());
  std::vector<Errand> errands(commands.size());
  std::vector<Errand*> open;
  for (size_t i = 0; i < commands.size(); ++i) {
    errands[i].command = &commands[i];
    errands[i].reply = &replies[i];
    open.push_back(&errands[i]);
  }
  for (int round = 0; round <= kRedirectsMax && !open.empty(); ++round) {
    std::vector<Visit> visits;
    Group(open, visits);
    std::vector<RedisTurn> turns;
    for (const Visit& visit : visits) turns.push_back({.connection = visit.connection.get()});
    RunTurns(turns, deadline, ToMonotonic(options_.timeout));
    std::vector<Errand*> redirected;
    for (size_t i = 0; i < visits.size(); ++i) EndVisit(visits[i], turns[i].status, redirected);
    open = std::move(redirected);
  }
  for (Errand* errand : open) *errand->reply = NoReply("redirected too often");
  return replies;
}

void Redis::Group(std::span<Errand*> errands, std::vector<Visit>& visits) {
  struct Destination {
    bool admits_reads = false;
    bool admits_writes = false;
    int visit = -1;
  };
  std::map<RedisServerPtr, Destination> destinations;
  for (Errand* errand : errands) {
    const RedisServerPtr server =
        errand->server != nullptr ? errand->server : servers_.OfKey(errand->command->words[1]);
    if (server == nullptr) {
      ++skipped_;
      *errand->reply = NoReply("no server is known to have the key");
      WantMap();
      continue;
    }
    const auto [place, is_new] = destinations.try_emplace(server);
    Destination& destination = place->second;
    if (is_new) {
      destination.admits_reads = servers_.Admits(server, /*write=*/false, /*start=*/false);
      destination.admits_writes = servers_.Admits(server, /*write=*/true, /*start=*/false);
    }
    if (!(errand->command->write ? destination.admits_writes : destination.admits_reads)) {
      ++skipped_;
      *errand->reply = NoReply("the server cannot be asked now");
      continue;
    }
    if (destination.visit < 0) {
      absl::StatusOr<std::unique_ptr<RedisConnection>> connection =
          servers_.Connect(server, /*fresh=*/false);
      if (!connection.ok()) {
        destination.admits_reads = destination.admits_writes = false;
        ++lost_;
        *errand->reply = NoReply("the server cannot be reached");
        ReportFailure(server, connection.status());
        continue;
      }
      destination.visit = static_cast<int>(visits.size());
      visits.push_back({.server = server, .connection = *std::move(connection)});
    }
    Visit& visit = visits[static_cast<size_t>(destination.visit)];
    const bool first_write =
        errand->command->write && std::none_of(visit.errands.begin(), visit.errands.end(),
                                               [](Errand* e) { return e->command->write; });
    if (first_write) servers_.Admits(server, /*write=*/true, /*start=*/true);
    visit.connection->Queue(*errand->command, errand->asking);
    visit.errands.push_back(errand);
  }
}

void Redis::EndVisit(Visit& visit, const absl::Status& status, std::vector<Errand*>& redirected) {
  std::vector<RedisReply> replies = visit.connection->TakeReplies();
  commands_ += static_cast<int64_t>(visit.errands.size());
  bool answered_read = false, answered_write = false;
  std::optional<std::pair<RedisState, std::string>> trouble;
  for (size_t i = 0; i < replies.size(); ++i) {
    Errand& errand = *visit.errands[i];
    if (replies[i].kind == RedisReply::Kind::kError) {
      if (Redirect(errand, visit.server, replies[i])) {
        redirected.push_back(&errand);
        continue;
      }
      ++errors_;
      const RedisState state = StateOfRedisError(replies[i].text);
      if (state != RedisState::kOk) trouble.emplace(state, replies[i].text);
    } else {
      (errand.command->write ? answered_write : answered_read) = true;
    }
    *errand.reply = std::move(replies[i]);
  }
  if (trouble) {
    servers_.OnFailure(visit.server, trouble->first, trouble->second);
    if (trouble->first == RedisState::kGone) WantMap();
  } else if (answered_write || answered_read) {
    servers_.OnAnswer(visit.server, answered_write);
  }
  const int64_t missing = static_cast<int64_t>(visit.errands.size() - replies.size());
  if (status.ok()) {
    servers_.Return(visit.server, std::move(visit.connection));
    return;
  }
  const bool late = absl::IsDeadlineExceeded(status) || absl::IsCancelled(status);
  (late ? timeouts_ : lost_) += missing;
  for (size_t i = replies.size(); i < visit.errands.size(); ++i) {
    *visit.errands[i]->reply =
        NoReply(std::string_view(status.message().data(), status.message().size()));
  }
  // Half of a reply may still come, so the connection cannot be used again.
  visit.connection.reset();
  ReportFailure(visit.server, status);
}

void Redis::ReportFailure(const RedisServerPtr& server, const absl::Status& status) {
  const std::string why(status.message());
  if (absl::IsCancelled(status)) {
    servers_.OnImpatience(server);
  } else if (absl::IsDeadlineExceeded(status)) {
    servers_.OnFailure(server, RedisState::kSlow, why);
  } else if (absl::IsPermissionDenied(status)) {
    servers_.OnFailure(server, RedisState::kRefused, why);
  } else {
    const RedisState state = StateOfRedisError(why);
    servers_.OnFailure(server, state == RedisState::kOk ? RedisState::kGone : state, why);
  }
}

bool Redis::Redirect(Errand& errand, const RedisServerPtr& server, const RedisReply& reply) {
  const std::optional<RedisRedirect> redirect =
      servers_.IsCluster() ? ParseRedisRedirect(reply.text, server->address()) : std::nullopt;
  if (!redirect) return false;
  const RedisServerPtr to = servers_.OfAddress(redirect->to);
  if (to == nullptr) return false;
  ++redirects_;
  errand.server = to;
  errand.asking = redirect->ask;
  if (!redirect->ask) {
    servers_.MoveSlot(redirect->slot, to);
    WantMap();
  }
  return true;
}

bool Redis::MayRead(std::string_view key) {
  const RedisServerPtr server = servers_.OfKey(key);
  return server != nullptr && servers_.Admits(server, /*write=*/false, /*start=*/false);
}

bool Redis::MayWrite(std::string_view key) {
  const RedisServerPtr server = servers_.OfKey(key);
  return server != nullptr && servers_.Admits(server, /*write=*/true, /*start=*/false);
}

std::vector<std::string> Redis::KeyOfEachServer(std::string_view prefix) const {
  return servers_.KeyOfEachServer(prefix);
}

bool Redis::AwaitState(RedisState state, absl::Duration timeout) {
  return servers_.AwaitState(state, ToMonotonic(timeout));
}

RedisCounters Redis::counters() const {
  return {.commands = commands_,
          .skipped = skipped_,
          .errors = errors_,
          .timeouts = timeouts_,
          .lost = lost_,
          .redirects = redirects_,
          .state_changes = servers_.state_changes()};
}

void Redis::WantMap() {
  std::lock_guard lock(mutex_);
  map_wanted_ = true;
}

void Redis::Keep() {
  MonotonicTime map_next{};
  while (true) {
    bool map_due = false;
    {
      std::unique_lock lock(mutex_);
      wake_.wait_for(lock, kKeeperTick, [this] { return stopping_; });
      if (stopping_) return;
      map_due = map_wanted_ && Now() >= map_next;
      if (map_due) map_wanted_ = false;
    }
    for (const RedisServerPtr& server : servers_.DueForProbe()) {
      Probe(server);
      // Another server may have taken over what a lost one had.
      if (servers_.IsCluster()) map_due = true;
    }
    if (!map_due) continue;
    if (const RedisServerPtr server = servers_.AnyGood(); server != nullptr) Probe(server);
    map_next = Now() + ToMonotonic(options_.pause_min);
  }
}

void Redis::Probe(const RedisServerPtr& server) {
  if (const absl::Status status = servers_.Resolve(server); !status.ok()) {
    ReportFailure(server, status);
    return;
  }
  absl::StatusOr<std::unique_ptr<RedisConnection>> connection =
      servers_.Connect(server, /*fresh=*/true);
  if (!connection.ok()) {
    ReportFailure(server, connection.status());
    return;
  }
  const RedisCommand commands[] = {{.words = {"EXISTS", kProbeKey}},
                                   {.words = {"CLUSTER", "SLOTS"}}};
  for (const RedisCommand& command : commands) (*connection)->Queue(command);
  RedisTurn turn{.connection = connection->get()};
  const MonotonicDuration silence_max = ToMonotonic(options_.timeout);
  RunTurns({&turn, 1}, Now() + 4 * silence_max, silence_max);
  if (!turn.status.ok()) {
    // Here, to be out of time is the server's doing, however little it was silent.
    const bool late = absl::IsCancelled(turn.status);
    ReportFailure(server, late ? absl::DeadlineExceededError(turn.status.message()) : turn.status);
    return;
  }
  const std::vector<RedisReply> replies = (*connection)->TakeReplies();
  const RedisState state = replies[0].kind == RedisReply::Kind::kError
                               ? StateOfRedisError(replies[0].text)
                               : RedisState::kOk;
  if (state != RedisState::kOk) {
    servers_.OnFailure(server, state, replies[0].text);
    if (state != RedisState::kGone) return;
  }
  Learn(server, replies[1]);
  if (state != RedisState::kOk) return;
  servers_.OnAnswer(server, /*write=*/false);
  servers_.Return(server, *std::move(connection));
}

void Redis::Learn(const RedisServerPtr& server, const RedisReply& slots) {
  if (slots.kind == RedisReply::Kind::kError) {
    // Cluster mode is off, or this user may not ask, or the server does not know the command.
    if (!servers_.IsCluster()) servers_.BecomeSingle(server);
    return;
  }
  const auto ranges = ParseClusterSlots(slots, server->address());
  if (ranges.ok() && !ranges->empty()) {
    servers_.BecomeCluster(*ranges);
  } else {
    const std::string why =
        ranges.ok() ? "a cluster that serves no slot yet" : std::string(ranges.status().message());
    servers_.OnFailure(server, RedisState::kGone, why);
  }
}

}  // namespace chorale
