// Byte pair encoding of one word (Sennrich, Haddow and Birch, ACL 2016, section 3.2): the adjacent
// pair whose merge was learned first is merged, again and again, the leftmost of equals.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/json.h"
#include "base/token.h"

namespace chorale {

// Most ids that a vocabulary may name.
inline constexpr TokenId kTokenIdMax = (1 << 22) - 1;

// Immutable; safe to share between threads.
class Bpe {
 public:
  // `model` is the field of tokenizer.json. With `byte_level`, symbols are bytes, written in the
  // vocabulary by GPT-2's alphabet; otherwise they are code points, with <0x..> for bytes that have
  // none. InvalidArgument names the field; Unimplemented what is not known.
  static absl::StatusOr<Bpe> Parse(const Json& model, bool byte_level);

  // Appends the ids of `word`, valid UTF-8 for the code point kind. Bytes and code points that the
  // vocabulary has no piece for become its unknown token, or nothing when it has none.
  void Encode(std::string_view word, std::vector<TokenId>& ids) const;

  // As tokenizer.json writes them, by id; empty where there is no such id.
  const std::vector<std::string>& pieces() const { return pieces_; }
  // The bytes that an id stands for, by id.
  const std::vector<std::string>& bytes() const { return bytes_; }
  bool byte_fallback() const { return byte_fallback_; }

 private:
  struct Merge {
    int rank = 0;
    TokenId result = 0;
  };
  struct Word {
    TokenId id = 0;
    bool whole = false;  // merging this word's symbols ends in this id
  };
  Bpe() = default;
  absl::Status AddPieces(const Json& model);
  absl::Status AddMerges(const Json& model);
  void AddWords();
  const Merge* Find(TokenId left, TokenId right) const;
  void Symbols(std::string_view word, std::vector<TokenId>& ids) const;
  // `begin` is where the ids of this word begin.
  void AddCodePoint(std::string_view code_point, size_t begin, std::vector<TokenId>& ids) const;
  void MergeShort(std::vector<TokenId>& ids, size_t begin) const;
  void MergeLong(std::vector<TokenId>& ids, size_t begin) const;

  bool byte_level_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
  bool fuse_unknown_ = false;
  TokenId unknown_ = -1;
  std::vector<std::string> pieces_;
  std::vector<std::string> bytes_;
  std::vector<TokenId> byte_ids_;                       // [256], -1: none
  absl::flat_hash_map<absl::string_view, Word> words_;  // by bytes; the views point into bytes_
  absl::flat_hash_map<uint64_t, Merge> merges_;         // by left << 32 | right
};

// The byte that a code point of GPT-2's alphabet stands for; -1: none.
int ByteOfAlphabet(char32_t c);

}  // namespace chorale
