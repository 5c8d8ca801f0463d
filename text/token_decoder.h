// The decoder of a tokenizer.json: from pieces back to text, one piece at a time.
//
// Known: ByteLevel, Metaspace, ByteFallback, Fuse, Replace of a string, Strip of leading spaces,
// and sequences. What works on a whole text (Strip) is told as a number, so that a stream can do
// it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/json.h"

namespace chorale {

// Immutable; safe to share between threads.
class TokenDecoder {
 public:
  // Unimplemented names a decoder that is not known.
  static absl::StatusOr<TokenDecoder> Parse(const Json& json);

  // What a piece adds in the middle of a text. `bytes` are those of Bpe::bytes.
  std::string Decode(std::string bytes) const;
  bool byte_level() const { return byte_level_; }
  // How many leading spaces a whole text loses.
  int spaces_stripped() const { return spaces_stripped_; }

 private:
  absl::Status Add(const Json& json, int depth);
  absl::Status AddStrip(const Json& json);

  std::vector<std::pair<std::string, std::string>> replacements_;
  double growth_ = 1;  // how much longer replacements may make a piece
  bool byte_level_ = false;
  int spaces_stripped_ = 0;
};

}  // namespace chorale
