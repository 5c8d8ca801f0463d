#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include <pcre2.h>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "text/normalizer.h"

namespace chorale {
namespace {

constexpr int kDepthMax = 8;
constexpr size_t kStepsMax = 16;  // real ones have at most five; each is a level of recursion
constexpr uint32_t kMatchStepsMax = 1'000'000;
constexpr size_t kPatternBytesMax = 16 << 10;

// A literal as a regular expression.
std::string Quoted(const std::string& literal) {
  return "\\Q" + ReplaceAll(literal, "\\E", "\\E\\\\E\\Q") + "\\E";
}

}  // namespace

struct PreTokenizer::Regex {
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;

  ~Regex() {
    pcre2_match_context_free(context);
    pcre2_code_free(code);
  }

  static absl::StatusOr<std::unique_ptr<const Regex>> Compile(const std::string& pattern) {
    if (pattern.size() > kPatternBytesMax) {
      return absl::InvalidArgumentError("field 'pre_tokenizer.pattern': too long");
    }
    int error = 0;
    PCRE2_SIZE offset = 0;
    auto regex = std::make_unique<Regex>();
    regex->code =
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
    if (regex->code == nullptr) {
      PCRE2_UCHAR message[256];
      pcre2_get_error_message(error, message, sizeof(message));
      return absl::InvalidArgumentError(
          absl::StrFormat("field 'pre_tokenizer.pattern': at offset %d: %s", offset,
                          reinterpret_cast<const char*>(message)));
    }
    pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE);  // without it, matching is slower only
    regex->context = pcre2_match_context_create(nullptr);
    CHECK(regex->context != nullptr);
    pcre2_set_match_limit(regex->context, kMatchStepsMax);
    return std::unique_ptr<const Regex>(std::move(regex));
  }
};

PreTokenizer::PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) = default;
PreTokenizer::~PreTokenizer() = default;

absl::StatusOr<PreTokenizer> PreTokenizer::Parse(const Json& json) {
  PreTokenizer pre_tokenizer;
  if (!json.is_null()) RETURN_IF_ERROR(pre_tokenizer.Add(json, 0));
  return pre_tokenizer;
}

absl::Status PreTokenizer::Add(const Json& json, int depth) {
  ASSIGN_OR_RETURN(const std::string type, JsonString(json, "type"));
  if (type == "Sequence") {
    const auto list = json.find("pretokenizers");
    if (depth == kDepthMax || list == json.end() || !list->is_array()) {
      return absl::InvalidArgumentError("field 'pre_tokenizer.pretokenizers': expected a list");
    }
    for (const Json& item : *list) RETURN_IF_ERROR(Add(item, depth + 1));
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(AddStep(json, type));
  if (steps_.size() <= kStepsMax) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("field 'pre_tokenizer': more than the limit of %d steps", kStepsMax));
}

absl::Status PreTokenizer::AddStep(const Json& json, const std::string& type) {
  if (type == "ByteLevel") {
    byte_level_ = true;
    ASSIGN_OR_RETURN(const bool prefix, JsonBool(json, "add_prefix_space", true));
    ASSIGN_OR_RETURN(const bool regex, JsonBool(json, "use_regex", true));
    if (prefix) steps_.push_back({.kind = Kind::kPrefixSpace});
    if (regex) steps_.push_back({.kind = Kind::kGpt2});
    return absl::OkStatus();
  }
  if (type == "Digits") {
    ASSIGN_OR_RETURN(const bool individual, JsonBool(json, "individual_digits", false));
    Step step{.kind = Kind::kRegex};
    ASSIGN_OR_RETURN(step.regex, Regex::Compile(individual ? "\\p{N}" : "\\p{N}+"));
    steps_.push_back(std::move(step));
    return absl::OkStatus();
  }
  if (type == "Split") return AddSplit(json);
  if (type == "Metaspace") return AddMetaspace(json);
  return absl::UnimplementedError(absl::StrFormat(
      "field 'pre_tokenizer.type': '%s' is not known; known are Split, ByteLevel, Digits, "
      "Metaspace, Sequence",
      type.substr(0, 80)));
}

absl::Status PreTokenizer::AddSplit(const Json& json) {
  const auto pattern = json.find("pattern");
  if (pattern == json.end() || !pattern->is_object()) {
    return absl::InvalidArgumentError("field 'pre_tokenizer.pattern': expected an object");
  }
  ASSIGN_OR_RETURN(const std::string behavior, JsonString(json, "behavior"));
  ASSIGN_OR_RETURN(const bool invert, JsonBool(json, "invert", false));
  if (invert || (behavior != "Isolated" && behavior != "Removed")) {
    return absl::UnimplementedError(absl::StrFormat(
        "field 'pre_tokenizer.behavior': '%s'%s is not known; known are Isolated and Removed",
        behavior.substr(0, 80), invert ? " with invert" : ""));
  }
  const bool literal = pattern->contains("String");
  ASSIGN_OR_RETURN(const std::string regex, JsonString(*pattern, literal ? "String" : "Regex"));
  Step step{.kind = Kind::kRegex, .removes = behavior == "Removed"};
  if (!literal && !step.removes && regex == kGpt2Pattern) {
    step.kind = Kind::kGpt2;
  } else if (!literal && !step.removes && regex == kLlama3Pattern) {
    step.kind = Kind::kLlama3;
  } else if (!literal && !step.removes && regex == kQwenPattern) {
    step.kind = Kind::kQwen;
  } else {
    ASSIGN_OR_RETURN(step.regex, Regex::Compile(literal ? Quoted(regex) : regex));
  }
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status PreTokenizer::AddMetaspace(const Json& json) {
  Step step{.kind = Kind::kMetaspace};
  ASSIGN_OR_RETURN(step.replacement, JsonString(json, "replacement", "▁"));
  ASSIGN_OR_RETURN(const bool prefix, JsonBool(json, "add_prefix_space", true));
  ASSIGN_OR_RETURN(const std::string scheme,
                   JsonString(json, "prepend_scheme", prefix ? "always" : "never"));
  ASSIGN_OR_RETURN(step.splits, JsonBool(json, "split", true));
  if (step.replacement.empty() || (scheme != "always" && scheme != "first" && scheme != "never")) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'pre_tokenizer.prepend_scheme': '%s' is not one of always, first, never",
        scheme.substr(0, 80)));
  }
  RETURN_IF_ERROR(BoundGrowth(" ", step.replacement, growth_, "pre_tokenizer"));
  step.prepends = scheme != "never";
  step.only_first = scheme == "first";
  steps_.push_back(std::move(step));
  return absl::OkStatus();
}

absl::Status PreTokenizer::Split(std::string_view text, bool first, WordFn fn) const {
  return text.empty() ? absl::OkStatus() : Run(0, text, first, fn);
}

absl::Status PreTokenizer::Run(size_t step, std::string_view text, bool first, WordFn fn) const {
  if (step == steps_.size()) {
    fn(text);
    return absl::OkStatus();
  }
  absl::Status status;
  bool at_first = first;
  const auto word = [&](std::string_view word) {
    if (step + 1 == steps_.size()) return fn(word);
    if (status.ok()) status = Run(step + 1, word, std::exchange(at_first, false), fn);
  };
  switch (steps_[step].kind) {
    case Kind::kGpt2:
      SplitGpt2(text, word);
      return status;
    case Kind::kLlama3:
      SplitLlama3(text, 3, word);
      return status;
    case Kind::kQwen:
      SplitLlama3(text, 1, word);
      return status;
    case Kind::kPrefixSpace:
      if (text.front() == ' ') return Run(step + 1, text, first, fn);
      return Run(step + 1, " " + std::string(text), first, fn);
    case Kind::kRegex:
      return RunRegex(step, text, first, fn);
    case Kind::kMetaspace:
      return RunMetaspace(step, text, first, fn);
  }
  __builtin_unreachable();
}

absl::Status PreTokenizer::RunRegex(size_t step, std::string_view text, bool first,
                                    WordFn fn) const {
  const Step& s = steps_[step];
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match(
      pcre2_match_data_create_from_pattern(s.regex->code, nullptr), pcre2_match_data_free);
  CHECK(match != nullptr);
  const auto word = [&](size_t begin, size_t end) {
    return begin == end ? absl::OkStatus()
                        : Run(step + 1, text.substr(begin, end - begin), first && begin == 0, fn);
  };
  size_t done = 0;
  size_t from = 0;
  while (from < text.size()) {
    const int found =
        pcre2_match(s.regex->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                    PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, match.get(), s.regex->context);
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("the tokenizer's expression takes too many steps at byte %d", from));
    }
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match.get());
    if (range[1] <= from || range[0] < from) break;  // \K or a lookbehind that moves back
    RETURN_IF_ERROR(word(done, range[0]));
    if (!s.removes) RETURN_IF_ERROR(word(range[0], range[1]));
    done = from = range[1];
  }
  return word(done, text.size());
}

absl::Status PreTokenizer::RunMetaspace(size_t step, std::string_view text, bool first,
                                        WordFn fn) const {
  const Step& s = steps_[step];
  std::string marked = ReplaceAll(text, " ", s.replacement);
  if (s.prepends && (first || !s.only_first) && !marked.starts_with(s.replacement)) {
    marked.insert(0, s.replacement);
  }
  if (!s.splits) return Run(step + 1, marked, first, fn);
  size_t begin = 0;
  while (begin < marked.size()) {
    const size_t end = std::min(marked.find(s.replacement, begin + 1), marked.size());
    RETURN_IF_ERROR(Run(step + 1, std::string_view(marked).substr(begin, end - begin),
                        first && begin == 0, fn));
    begin = end;
  }
  return absl::OkStatus();
}

}  // namespace chorale
