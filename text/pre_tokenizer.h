// The pre-tokenizer of a tokenizer.json: cuts a text into words that tokens never cross.
//
// Known: Split (by regular expression or string, isolated or removed), ByteLevel, Digits,
// Metaspace, and sequences. The expressions of GPT-2, Llama-3 and Qwen have scanners of their own
// (splitters.h); any other runs in PCRE2.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "base/json.h"
#include "text/splitters.h"

namespace chorale {

// Immutable; safe to share between threads.
class PreTokenizer {
 public:
  // `json` is the field's value, null included. Unimplemented names what is not known.
  static absl::StatusOr<PreTokenizer> Parse(const Json& json);
  PreTokenizer(PreTokenizer&&);
  PreTokenizer& operator=(PreTokenizer&&);
  ~PreTokenizer();

  // Calls `fn` with each word in order; a word is valid during its call. `first`: the text begins
  // the whole input. ResourceExhausted when an expression takes too many steps on this text.
  absl::Status Split(std::string_view text, bool first, WordFn fn) const;
  // Words are bytes, written in the vocabulary by GPT-2's alphabet.
  bool byte_level() const { return byte_level_; }

 private:
  enum class Kind { kGpt2, kLlama3, kQwen, kRegex, kMetaspace, kPrefixSpace };
  struct Regex;
  struct Step {
    Kind kind = Kind::kGpt2;
    std::unique_ptr<const Regex> regex;
    bool removes = false;     // what matches is dropped
    std::string replacement;  // Metaspace
    bool prepends = false;    // Metaspace
    bool only_first = false;  // Metaspace: prepends to the first text only
    bool splits = true;       // Metaspace
  };
  PreTokenizer();
  absl::Status Add(const Json& json, int depth);
  absl::Status AddStep(const Json& json, const std::string& type);
  absl::Status AddSplit(const Json& json);
  absl::Status AddMetaspace(const Json& json);
  absl::Status Run(size_t step, std::string_view text, bool first, WordFn fn) const;
  absl::Status RunRegex(size_t step, std::string_view text, bool first, WordFn fn) const;
  absl::Status RunMetaspace(size_t step, std::string_view text, bool first, WordFn fn) const;

  std::vector<Step> steps_;
  double growth_ = 1;  // how much longer Metaspace may make a text
  bool byte_level_ = false;
};

}  // namespace chorale
