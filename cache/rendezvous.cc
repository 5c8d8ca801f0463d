#include "cache/rendezvous.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>

#include "base/hash.h"
#include "base/random.h"

namespace chorale {
namespace {

uint64_t WeightOf(const BlockKey& key, const std::string& node_id) {
  uint64_t halves[2];
  std::memcpy(halves, key.bytes.data(), sizeof halves);
  const uint64_t node = Checksum64(std::as_bytes(std::span(node_id)));
  return MixBits(MixBits(node ^ halves[0]) ^ halves[1]);
}

}  // namespace

std::vector<int> RankNodes(const BlockKey& key, std::span<const std::string> node_ids, int count) {
  std::vector<uint64_t> weights;
  for (const std::string& id : node_ids) weights.push_back(WeightOf(key, id));
  std::vector<int> order(node_ids.size());
  std::iota(order.begin(), order.end(), 0);
  const size_t kept = std::clamp<size_t>(std::max(count, 0), 0, order.size());
  const auto kept_end = order.begin() + static_cast<std::ptrdiff_t>(kept);
  std::partial_sort(order.begin(), kept_end, order.end(), [&](int a, int b) {
    return weights[a] != weights[b] ? weights[a] > weights[b] : node_ids[a] < node_ids[b];
  });
  order.resize(kept);
  return order;
}

std::vector<int> RankNodes(const BlockKey& key, std::span<const std::string> node_ids) {
  return RankNodes(key, node_ids, static_cast<int>(node_ids.size()));
}

}  // namespace chorale
