// How a text is cut into the words that byte pair encoding works on, for the patterns that models
// really use: scanners written out by hand, because a general regular expression is ten times
// slower.
//
// tests/text compares each with PCRE2 on the pattern itself, over random text.
#pragma once

#include <string_view>

#include "absl/functional/function_ref.h"

namespace chorale {

using WordFn = absl::FunctionRef<void(std::string_view word)>;

// The pattern of GPT-2:
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
extern const char kGpt2Pattern[];
void SplitGpt2(std::string_view text, WordFn fn);

// The pattern of Llama-3 (digits_max 3: \p{N}{1,3}) and Qwen2 and 3 (digits_max 1: \p{N}):
//   (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
//    ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
extern const char kLlama3Pattern[];
extern const char kQwenPattern[];
void SplitLlama3(std::string_view text, int digits_max, WordFn fn);

}  // namespace chorale
