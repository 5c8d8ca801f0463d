// Both ways of merging, judged by one that looks at all pairs for the lowest rank each time.
#include "text/bpe.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include <gtest/gtest.h>

namespace chorale {
namespace {

struct RandomModel {
  Json json;
  std::map<std::string, TokenId> ids;
  std::map<std::pair<std::string, std::string>, int> ranks;
};

// Pieces over "abcd"; several merges may make the same piece, some need pieces that are made late.
RandomModel MakeModel(std::mt19937_64& random, int merges) {
  RandomModel model;
  std::vector<std::string> pieces = {"a", "b", "c", "d"};
  std::vector<std::pair<std::string, std::string>> list;
  std::set<std::string> seen(pieces.begin(), pieces.end());
  while (static_cast<int>(list.size()) < merges) {
    std::pair pair(pieces[random() % pieces.size()], pieces[random() % pieces.size()]);
    if (pair.first.size() + pair.second.size() > 12) continue;
    if (std::find(list.begin(), list.end(), pair) != list.end()) continue;
    if (seen.insert(pair.first + pair.second).second) pieces.push_back(pair.first + pair.second);
    list.push_back(std::move(pair));
  }
  std::shuffle(list.begin(), list.end(), random);
  for (const std::string& piece : pieces) {
    const TokenId id = static_cast<TokenId>(model.ids.size());
    model.ids[piece] = id;
  }
  model.json = {{"type", "BPE"}, {"vocab", model.ids}, {"merges", Json::array()}};
  for (const auto& pair : list) {
    model.ranks.emplace(pair, model.ranks.size());
    model.json["merges"].push_back({pair.first, pair.second});
  }
  return model;
}

std::vector<TokenId> Naive(const RandomModel& model, const std::string& word) {
  std::vector<std::string> symbols;
  for (char c : word) symbols.emplace_back(1, c);
  while (true) {
    int best_rank = INT32_MAX;
    size_t best = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto it = model.ranks.find({symbols[i], symbols[i + 1]});
      if (it == model.ranks.end() || it->second >= best_rank) continue;
      best_rank = it->second;
      best = i;
    }
    if (best_rank == INT32_MAX) break;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
  std::vector<TokenId> ids;
  for (const std::string& symbol : symbols) ids.push_back(model.ids.at(symbol));
  return ids;
}

TEST(BpeTest, MergesShortAndLongWordsAsTheDefinitionSays) {
  const uint64_t seed = std::random_device{}();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 40; ++round) {
    const RandomModel model = MakeModel(random, 1 + static_cast<int>(random() % 60));
    for (bool byte_level : {false, true}) {
      const auto bpe = Bpe::Parse(model.json, byte_level);
      ASSERT_TRUE(bpe.ok()) << bpe.status();
      for (int i = 0; i < 50; ++i) {
        std::string word;
        const size_t letters = 1 + random() % 4;
        const size_t length = i % 2 == 0 ? random() % 12 : random() % 200;
        while (word.size() < length) word += static_cast<char>('a' + random() % letters);
        std::vector<TokenId> ids = {-7};  // encoding appends
        bpe->Encode(word, ids);
        ASSERT_EQ(ids[0], -7);
        ids.erase(ids.begin());
        ASSERT_EQ(ids, Naive(model, word)) << word << "\n" << model.json.dump();
      }
    }
  }
}

TEST(BpeTest, MergesWordsOfTheSizeWhereTheWayChanges) {
  const RandomModel model{
      .json = {{"vocab", {{"a", 0}, {"aa", 1}, {"aaaa", 2}}}, {"merges", {"a a", "aa aa"}}},
      .ids = {{"a", 0}, {"aa", 1}, {"aaaa", 2}},
      .ranks = {{{"a", "a"}, 0}, {{"aa", "aa"}, 1}}};
  const auto bpe = Bpe::Parse(model.json, false);
  ASSERT_TRUE(bpe.ok()) << bpe.status();
  for (size_t length = 0; length < 120; ++length) {
    const std::string word(length, 'a');
    std::vector<TokenId> ids;
    bpe->Encode(word, ids);
    EXPECT_EQ(ids, Naive(model, word)) << length;
  }
}

TEST(BpeTest, KnowsTheAlphabetOfBytes) {
  std::set<int> bytes;
  for (char32_t c = 0; c < 1024; ++c) {
    const int byte = ByteOfAlphabet(c);
    if (byte < 0) continue;
    EXPECT_TRUE(bytes.insert(byte).second);
  }
  EXPECT_EQ(bytes.size(), 256u);
  EXPECT_EQ(ByteOfAlphabet('A'), 'A');
  EXPECT_EQ(ByteOfAlphabet(0x120), ' ');
  EXPECT_EQ(ByteOfAlphabet(0x10A), '\n');
  EXPECT_EQ(ByteOfAlphabet(0x10FFFF), -1);
}

}  // namespace
}  // namespace chorale
