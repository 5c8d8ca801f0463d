// The normaliser of a tokenizer.json: what happens to a text before it is cut into tokens.
//
// Known: NFC, NFD, NFKC, NFKD, Prepend, Replace of a string, Strip, and sequences.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/json.h"

namespace chorale {

// Immutable; safe to share between threads.
class Normalizer {
 public:
  // `json` is the field's value, null included. Unimplemented names an unknown type.
  static absl::StatusOr<Normalizer> Parse(const Json& json);

  // `text` is valid UTF-8, and so is the result.
  std::string Apply(std::string text) const;
  bool changes_nothing() const { return steps_.empty(); }

 private:
  enum class Kind { kUnicode, kPrepend, kReplace, kStrip };
  struct Step {
    Kind kind = Kind::kUnicode;
    int unicode_options = 0;  // of utf8proc
    bool keeps_ascii = false;
    std::string from;  // what is replaced
    std::string to;    // or prepended
    bool left = false;
    bool right = false;
  };
  absl::Status Add(const Json& json, int depth);

  std::vector<Step> steps_;
  double growth_ = 1;  // how much longer replacements may make a text
};

// Replaces every occurrence, from left to right. `from` is not empty.
std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to);

// Replacements one after the other make a text at most this many times as long.
inline constexpr double kGrowthMax = 64;
// Multiplies `growth` by that of one more replacement; InvalidArgument naming `field` beyond the
// limit.
absl::Status BoundGrowth(std::string_view from, std::string_view to, double& growth,
                         std::string_view field);

}  // namespace chorale
