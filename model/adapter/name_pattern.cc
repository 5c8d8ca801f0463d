#include "model/adapter/name_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <string>
#include <utility>

#include <pcre2.h>

#include "absl/strings/str_format.h"
#include "base/check.h"

namespace chorale {
namespace {

constexpr size_t kPatternBytesMax = 4096;
constexpr uint32_t kMatchLimit = 100'000;

}  // namespace

struct NamePattern::Code {
  std::string text;  // the head of the pattern, for errors
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;
  ~Code() {
    pcre2_match_context_free(context);
    pcre2_code_free(code);
  }
};

absl::StatusOr<NamePattern> NamePattern::Compile(std::string_view pattern) {
  if (pattern.size() > kPatternBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a pattern of %d bytes, more than %d", pattern.size(), kPatternBytesMax));
  }
  int error = 0;
  PCRE2_SIZE place = 0;
  auto compiled = std::make_shared<Code>();
  compiled->text = std::string(pattern.substr(0, 80));
  compiled->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                 PCRE2_ANCHORED | PCRE2_ENDANCHORED, &error, &place, nullptr);
  if (compiled->code == nullptr) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    return absl::InvalidArgumentError(
        absl::StrFormat("'%s' is no regular expression: %s at %d", pattern.substr(0, 80),
                        reinterpret_cast<const char*>(message), place));
  }
  compiled->context = pcre2_match_context_create(nullptr);
  CHECK(compiled->context != nullptr);
  pcre2_set_match_limit(compiled->context, kMatchLimit);
  pcre2_set_depth_limit(compiled->context, kMatchLimit);
  return NamePattern(std::move(compiled));
}

absl::StatusOr<bool> NamePattern::Matches(std::string_view name) const {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  CHECK(data != nullptr);
  const int result = pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(name.data()),
                                 name.size(), 0, 0, data, code_->context);
  pcre2_match_data_free(data);
  if (result >= 0) return true;
  if (result == PCRE2_ERROR_NOMATCH) return false;
  PCRE2_UCHAR message[256] = {};
  pcre2_get_error_message(result, message, sizeof(message));
  return absl::InvalidArgumentError(absl::StrFormat("'%s' cannot be decided for '%s': %s",
                                                    code_->text, name.substr(0, 80),
                                                    reinterpret_cast<const char*>(message)));
}

}  // namespace chorale
