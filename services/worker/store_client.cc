#include "services/worker/store_client.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include <grpcpp/client_context.h>

#include "absl/time/clock.h"
#include "cache/rendezvous.h"
#include "chorale/v1/blocks.grpc.pb.h"
#include "rpc/blocks/convert_blocks.h"
#include "rpc/deadline.h"

namespace chorale {
namespace {

constexpr absl::Duration kDown = absl::Seconds(1);

// One question to several nodes.
struct Question {
  std::mutex mutex;
  int keys = 0;
  int open = 0;  // answers that are missing; under mutex
  std::vector<StoreClient::Part> parts;
  std::vector<int> leading;  // of each part; under mutex
  std::function<void(StoreClient::Found)> on_found;

  void Take(size_t part, int blocks) {
    {
      std::lock_guard lock(mutex);
      leading[part] = blocks;
      if (--open > 0) return;
    }
    on_found(Answer());
  }

  // Of the chain: up to the first key that its node does not have.
  StoreClient::Found Answer() const {
    StoreClient::Found found = {.blocks = keys};
    for (size_t i = 0; i < parts.size(); ++i) {
      const std::vector<int>& places = parts[i].places;
      if (leading[i] < static_cast<int>(places.size())) {
        found.blocks = std::min(found.blocks, places[leading[i]]);
      }
    }
    for (const StoreClient::Part& part : parts) {
      const auto end = std::lower_bound(part.places.begin(), part.places.end(), found.blocks);
      if (end == part.places.begin()) continue;
      found.parts.push_back({part.address, {part.places.begin(), end}});
    }
    return found;
  }
};

struct LookupCall {
  std::unique_ptr<v1::Blocks::Stub> stub;
  grpc::ClientContext context;
  v1::LookupRequest request;
  v1::LookupReply reply;
};

}  // namespace

StoreClient::StoreClient(std::vector<std::string> nodes, int replicas, Channels& channels)
    : nodes_(std::move(nodes)), replicas_(replicas), channels_(channels), states_(nodes_.size()) {}

StoreClient::~StoreClient() {
  std::unique_lock lock(mutex_);
  answered_.wait(lock, [this] { return asking_ == 0; });
}

std::vector<std::string> StoreClient::NodesOf(const BlockKey& key) const {
  return Choose(key, /*to_ask=*/false);
}

std::vector<std::string> StoreClient::Choose(const BlockKey& key, bool to_ask) const {
  std::vector<std::string> chosen;
  const absl::Time now = absl::Now();
  std::lock_guard lock(mutex_);
  for (int node : RankNodes(key, nodes_, replicas_)) {
    const Node& state = states_[node];
    if (state.down_until > now || (to_ask && state.slow_until > now)) continue;
    chosen.push_back(nodes_[node]);
  }
  return chosen;
}

void StoreClient::NoteFailure(const std::string& address) { Avoid(address, &Node::down_until); }

void StoreClient::Avoid(const std::string& address, absl::Time Node::*until) {
  const auto it = std::find(nodes_.begin(), nodes_.end(), address);
  if (it == nodes_.end()) return;
  std::lock_guard lock(mutex_);
  states_[it - nodes_.begin()].*until = absl::Now() + kDown;
}

int StoreClient::nodes_down() const {
  const absl::Time now = absl::Now();
  std::lock_guard lock(mutex_);
  return static_cast<int>(std::count_if(states_.begin(), states_.end(), [&](const Node& state) {
    return std::max(state.down_until, state.slow_until) > now;
  }));
}

void StoreClient::Lookup(std::vector<BlockKey> keys, absl::Duration timeout,
                         std::function<void(Found)> on_found) {
  std::map<std::string, std::vector<int>> by_node;
  for (size_t place = 0; place < keys.size(); ++place) {
    const std::vector<std::string> nodes = Choose(keys[place], /*to_ask=*/true);
    if (nodes.empty()) {
      keys.resize(place);  // nobody can be asked for it: the prefix ends here
      break;
    }
    by_node[nodes.front()].push_back(static_cast<int>(place));
  }
  auto question = std::make_shared<Question>();
  question->keys = static_cast<int>(keys.size());
  question->open = static_cast<int>(by_node.size());
  question->on_found = std::move(on_found);
  if (by_node.empty()) return question->on_found({});
  for (auto& [address, places] : by_node) question->parts.push_back({address, std::move(places)});
  question->leading.assign(question->parts.size(), 0);
  {
    std::lock_guard lock(mutex_);
    asking_ += static_cast<int>(question->parts.size());
  }
  for (size_t i = 0; i < question->parts.size(); ++i) {
    auto call = std::make_shared<LookupCall>();
    const std::string& address = question->parts[i].address;
    call->stub = v1::Blocks::NewStub(channels_.Get(address));
    SetDeadline(call->context, absl::Now() + timeout);
    for (int place : question->parts[i].places) {
      call->request.add_keys(std::string(keys[place].AsBytes()));
    }
    call->stub->async()->Lookup(&call->context, &call->request, &call->reply,
                                [this, call, question, i](const grpc::Status& status) mutable {
                                  const int blocks = std::max(0, call->reply.blocks());
                                  const std::string& address = question->parts[i].address;
                                  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
                                    Avoid(address, &Node::slow_until);
                                  } else if (!status.ok()) {
                                    NoteFailure(address);
                                  }
                                  question->Take(i, status.ok() ? blocks : 0);
                                  // It lets go of gRPC before it counts as answered: the process
                                  // may go right then.
                                  call.reset();
                                  std::lock_guard lock(mutex_);
                                  if (--asking_ == 0) answered_.notify_all();
                                });
  }
}

}  // namespace chorale
