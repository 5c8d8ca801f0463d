// Blocks whose keys and bytes are functions of a number, so that any block can be checked by its
// key.
#pragma once

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/random.h"
#include "cache/block_key.h"

namespace chorale {

inline BlockKey KeyOf(uint64_t number) {
  BlockKey key;
  const uint64_t words[2] = {MixBits(number), number};
  std::memcpy(key.bytes.data(), words, sizeof(words));
  return key;
}

inline uint64_t NumberOf(const BlockKey& key) {
  uint64_t number = 0;
  std::memcpy(&number, key.bytes.data() + 8, sizeof(number));
  return number;
}

inline std::vector<std::byte> BytesOf(uint64_t number, int64_t bytes) {
  std::vector<std::byte> block(static_cast<size_t>(bytes));
  uint64_t word = MixBits(number ^ 0x6b76);
  for (size_t i = 0; i < block.size(); i += sizeof(word)) {
    std::memcpy(block.data() + i, &word, std::min(sizeof(word), block.size() - i));
    word = word * 6364136223846793005u + 1442695040888963407u;
  }
  return block;
}

// Whether `bytes` are a block's, whatever its length.
inline bool IsBlock(uint64_t number, std::span<const std::byte> bytes) {
  const std::vector<std::byte> block = BytesOf(number, static_cast<int64_t>(bytes.size()));
  return std::memcmp(block.data(), bytes.data(), block.size()) == 0;
}

// A new folder; the caller removes it.
inline std::string MakeTempDir() {
  std::string path = (std::filesystem::temp_directory_path() / "chorale_kvstore_XXXXXX").string();
  CHECK(mkdtemp(path.data()) != nullptr);
  return path;
}

}  // namespace chorale
