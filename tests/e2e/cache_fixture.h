// A cluster whose workers are asked directly, with the sources of their K/V named: for tests of
// where it comes from. Kernels are the reference ones, so that equal K/V gives equal tokens.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cache/block_key.h"
#include "model/config.h"
#include "tests/e2e/processes.h"

namespace chorale {

// Where the K/V of a prompt may come from.
struct KvSources {
  std::vector<std::string> holders = {};  // addresses of those who may have leading blocks
  std::string prefill = "";               // of a worker that may write it
};

class CacheTest : public testing::Test {
 protected:
  // Writes a model of random weights in f32.
  explicit CacheTest(const ModelConfig& config);

  static constexpr int kBlockTokens = 16;
  static constexpr int kOutput = 16;

  // `tokens` random ones.
  static std::vector<int> RandomPrompt(unsigned seed, int tokens);
  v1::KvFormat Format() const;

  // Starts it with flags for this fixture in front of those of `options`.
  void Start(ClusterOptions options);
  // What a worker that is asked nothing else says to a prompt. Ends what is started.
  std::vector<int> Undisturbed(const std::vector<int>& prompt);

  static v1::Sampling OneTurn();
  Generation Ask(const std::string& id, const std::vector<int>& prompt,
                 const KvSources& sources = {});
  // Keys of the whole blocks of what a decode worker fetches of a prompt.
  std::vector<BlockKey> Keys(const std::vector<int>& prompt);
  // Waits until `id`, a worker or a store, says that it has so many leading blocks of a prompt.
  void WaitForBlocks(const std::string& id, const std::vector<int>& prompt, int blocks);
  // Drops all that a worker or a store keeps.
  void Forget(const std::string& id);
  // What a worker or a store says of one of its tiers.
  v1::TierStat Tier(const std::string& id, const std::string& tier);
  int64_t TierCounter(const std::string& id, const std::string& tier, const std::string& counter);

  const ModelConfig config_;
  TempFolder model_;
  std::optional<TestCluster> cluster_;
};

}  // namespace chorale
