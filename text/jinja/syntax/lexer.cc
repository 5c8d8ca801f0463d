#include "text/jinja/syntax/lexer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "text/jinja/values/text.h"

namespace chorale::jinja {
namespace {

constexpr std::string_view kTwoCharacterOperators[] = {"//", "**", "==", "!=", ">=", "<="};
constexpr std::string_view kOperators = "+-/*%~[](){}><=.:|,;";
constexpr size_t kDigitsMax = 1000;

bool IsNameStart(char c) { return absl::ascii_isalpha(c) || c == '_'; }
bool IsNamePart(char c) { return absl::ascii_isalnum(c) || c == '_'; }
bool IsHex(char c) { return absl::ascii_isxdigit(c); }

std::string WithUnixNewlines(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text += source[i];
      continue;
    }
    text += '\n';
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) RETURN_IF_ERROR(TextAndTag());
    Add(TokenType::kEnd, "");
    return std::move(tokens_);
  }

 private:
  std::string_view Rest() const { return std::string_view(source_).substr(at_); }
  bool Sees(std::string_view text) const { return Rest().substr(0, text.size()) == text; }
  char Peek(size_t offset = 0) const {
    return at_ + offset < source_.size() ? source_[at_ + offset] : '\0';
  }

  absl::Status Error(std::string_view message) const {
    return absl::InvalidArgumentError(
        absl::StrCat("chat template line ", line_, ": ", std::string(message)));
  }

  void Advance(size_t count) {
    const size_t end = std::min(at_ + count, source_.size());
    line_ += static_cast<int>(std::count(source_.begin() + at_, source_.begin() + end, '\n'));
    at_ = end;
  }

  void SkipSpace() {
    while (at_ < source_.size() && IsSpace(CodePointAt(source_, at_))) {
      Advance(CharacterBytes(source_, at_));
    }
  }

  void Add(TokenType type, std::string text) {
    Token token;
    token.type = type;
    token.text = std::move(text);
    token.line = line_;
    tokens_.push_back(std::move(token));
  }

  // The text up to the next tag, stripped as the tag asks, and the tag.
  absl::Status TextAndTag() {
    size_t tag = source_.find('{', at_);
    while (tag != std::string::npos &&
           (tag + 1 >= source_.size() ||
            std::string_view("{%#").find(source_[tag + 1]) == std::string_view::npos)) {
      tag = source_.find('{', tag + 1);
    }
    std::string_view text = Rest().substr(0, tag == std::string::npos ? tag : tag - at_);
    const size_t text_bytes = text.size();
    const char kind = tag == std::string::npos ? '\0' : source_[tag + 1];
    const char sign =
        tag == std::string::npos || tag + 2 >= source_.size() ? '\0' : source_[tag + 2];
    if (kind != '\0' && sign == '-') {
      text = Strip(text, nullptr, false, true);
    } else if (kind != '\0' && kind != '{' && sign != '+') {
      text = WithoutIndent(text, at_);
    }
    if (!text.empty()) Add(TokenType::kText, std::string(text));
    Advance(text_bytes);
    if (kind == '\0') return absl::OkStatus();
    const bool signed_tag = sign == '-' || sign == '+';
    Advance(signed_tag ? 3 : 2);
    if (kind == '#') return Comment();
    if (kind == '%' && SeesRaw("raw")) return Raw();
    Add(kind == '{' ? TokenType::kOutputBegin : TokenType::kBlockBegin, "");
    return Expression(kind == '{' ? "}}" : "%}");
  }

  absl::Status Comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) return Error("a comment '{#' is not closed by '#}'");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    Advance(end + 2 - at_);
    AfterTag(sign, true);
    return absl::OkStatus();
  }

  void AfterTag(char sign, bool trims_newline) {
    if (sign == '-') {
      SkipSpace();
    } else if (trims_newline && sign != '+' && Peek() == '\n') {
      Advance(1);
    }
  }

  // Whether a tag that consists of `name` alone goes on here.
  bool SeesRaw(std::string_view name) const {
    std::string_view rest = Strip(Rest(), nullptr, true, false);
    if (rest.substr(0, name.size()) != name) return false;
    rest = Strip(rest.substr(name.size()), nullptr, true, false);
    return rest.substr(0, 2) == "%}" || rest.substr(0, 3) == "-%}" || rest.substr(0, 3) == "+%}";
  }

  // Behind "{%" of {% raw %}. What follows need not be tokens at all.
  absl::Status Raw() {
    const size_t opened = source_.find("%}", at_);
    const char sign = source_[opened - 1];
    Advance(opened + 2 - at_);
    AfterTag(sign, /*trims_newline=*/false);
    const size_t begin = at_;
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos;
         tag = source_.find("{%", tag + 2)) {
      const char strips = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      const size_t inside = tag + (strips == '-' || strips == '+' ? 3 : 2);
      Advance(inside - at_);
      if (!SeesRaw("endraw")) continue;
      std::string_view text = std::string_view(source_).substr(begin, tag - begin);
      if (strips == '-') text = Strip(text, nullptr, false, true);
      if (strips != '-' && strips != '+') text = WithoutIndent(text, begin);
      if (!text.empty()) Add(TokenType::kText, std::string(text));
      const size_t closed = source_.find("%}", at_);
      const char last = source_[closed - 1];
      Advance(closed + 2 - at_);
      AfterTag(last, true);
      return absl::OkStatus();
    }
    return Error("'endraw' is missing");
  }

  // lstrip_blocks: white space between the start of a line and a tag goes. `begin` is where the
  // text stands.
  std::string_view WithoutIndent(std::string_view text, size_t begin) const {
    const size_t newline = text.rfind('\n');
    const size_t last_line = newline == std::string_view::npos ? 0 : newline + 1;
    const bool at_line_start = last_line > 0 || begin == 0 || source_[begin - 1] == '\n';
    const bool blank = Strip(text.substr(last_line), nullptr, true, false).empty();
    return at_line_start && blank ? text.substr(0, last_line) : text;
  }

  absl::Status Expression(std::string_view end) {
    std::string open;
    for (;;) {
      SkipSpace();
      if (at_ >= source_.size()) {
        return Error(absl::StrCat("a tag is not closed by '", std::string(end), "'"));
      }
      if (open.empty()) {
        const bool has_sign = Peek() == '-' || (Peek() == '+' && end == "%}");
        if (Rest().substr(has_sign ? 1 : 0, 2) == end) {
          const char sign = has_sign ? Peek() : '\0';
          Add(end == "}}" ? TokenType::kOutputEnd : TokenType::kBlockEnd, "");
          Advance(has_sign ? 3 : 2);
          AfterTag(sign, end == "%}");
          return absl::OkStatus();
        }
      }
      RETURN_IF_ERROR(OneToken(open));
    }
  }

  absl::Status OneToken(std::string& open) {
    const char c = Peek();
    if (c == '\'' || c == '"') return String();
    if (absl::ascii_isdigit(c)) return Number();
    if (IsNameStart(c)) {
      size_t size = 1;
      while (IsNamePart(Peek(size))) ++size;
      Add(TokenType::kName, std::string(Rest().substr(0, size)));
      Advance(size);
      return absl::OkStatus();
    }
    for (const std::string_view two : kTwoCharacterOperators) {
      if (!Sees(two)) continue;
      Add(TokenType::kOperator, std::string(two));
      Advance(2);
      return absl::OkStatus();
    }
    if (kOperators.find(c) == std::string_view::npos) {
      return Error(absl::StrCat("unexpected character '",
                                std::string(Rest().substr(0, CharacterBytes(source_, at_))), "'"));
    }
    if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : (c == '[' ? ']' : '}');
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c) {
        return Error(absl::StrCat("unexpected '", std::string(1, c), "'"));
      }
      open.pop_back();
    }
    Add(TokenType::kOperator, std::string(1, c));
    Advance(1);
    return absl::OkStatus();
  }

  static bool IsExponent(std::string_view text) {
    if (text.empty() || (text[0] != 'e' && text[0] != 'E')) return false;
    const size_t digit = text.size() > 1 && (text[1] == '+' || text[1] == '-') ? 2 : 1;
    return text.size() > digit && absl::ascii_isdigit(text[digit]);
  }

  absl::Status Number() {
    const std::string_view rest = Rest();
    const auto part = [&](size_t i) { return i < rest.size() ? rest[i] : '\0'; };
    const auto digits = [&](size_t from) {
      size_t i = from;
      while (absl::ascii_isdigit(part(i)) ||
             (i > from && part(i) == '_' && absl::ascii_isdigit(part(i + 1)))) {
        ++i;
      }
      return i;
    };
    if (part(0) == '0' && std::string_view("xXoObB").find(part(1)) != std::string_view::npos) {
      return PrefixedNumber();
    }
    size_t size = digits(0);
    bool is_float = false;
    const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';  // nested.0.1 is two places
    if (!after_dot && part(size) == '.' && absl::ascii_isdigit(part(size + 1))) {
      is_float = true;
      size = digits(size + 1);
    }
    if (IsExponent(rest.substr(size))) {
      is_float = true;
      size = digits(size + (absl::ascii_isdigit(part(size + 1)) ? 1 : 2));
    }
    std::string text(rest.substr(0, size));
    text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
    Add(is_float ? TokenType::kFloat : TokenType::kInteger, text);
    Token& token = tokens_.back();
    if (is_float && !absl::SimpleAtod(text, &token.real)) {
      return Error(absl::StrCat("the number ", text, " is too large"));
    }
    if (!is_float && text.size() > 1 && text[0] == '0' &&
        text.find_first_not_of('0') != std::string::npos) {
      return Error(absl::StrCat("the number ", text, " begins with 0"));
    }
    if (text.size() > kDigitsMax) return Error("a number has too many digits");
    Advance(size);
    return absl::OkStatus();
  }

  // 0x, 0o or 0b and digits, which may have '_' before them.
  absl::Status PrefixedNumber() {
    const char kind = absl::ascii_tolower(Peek(1));
    const int base = kind == 'x' ? 16 : kind == 'o' ? 8 : 2;
    const std::string_view digits = base == 16 ? "0123456789abcdef" : base == 8 ? "01234567" : "01";
    uint64_t value = 0;
    size_t size = 2;
    for (bool any = false;; ++size) {
      const char c = absl::ascii_tolower(Peek(size));
      if (c == '_' && digits.find(absl::ascii_tolower(Peek(size + 1))) != std::string_view::npos &&
          Peek(size + 1) != '\0') {
        continue;
      }
      const size_t digit = c == '\0' ? std::string_view::npos : digits.find(c);
      if (digit == std::string_view::npos) {
        if (!any) return Error("a number has no digits");
        break;
      }
      any = true;
      if (value > (uint64_t{1} << 63) / static_cast<uint64_t>(base)) {
        return Error("a number with a prefix has more than 63 bits");
      }
      value = value * static_cast<uint64_t>(base) + digit;
    }
    Add(TokenType::kInteger, absl::StrCat(value));
    Advance(size);
    return absl::OkStatus();
  }

  absl::Status String() {
    const std::string_view rest = Rest();
    std::string text;
    size_t i = 1;
    while (i < rest.size() && rest[i] != rest[0]) {
      if (rest[i] != '\\') {
        text += rest[i++];
        continue;
      }
      RETURN_IF_ERROR(Escape(rest, i, text));
    }
    if (i >= rest.size()) return Error("a string is not closed");
    Add(TokenType::kString, std::move(text));
    Advance(i + 1);
    return absl::OkStatus();
  }

  // One escape sequence of Python at rest[i], which is a backslash.
  absl::Status Escape(std::string_view rest, size_t& i, std::string& text) const {
    static constexpr std::string_view kLetters = "ntr\\'\"abfv", kMeant = "\n\t\r\\'\"\a\b\f\v";
    if (i + 1 >= rest.size()) return Error("a string is not closed");
    const char letter = rest[i + 1];
    if (const size_t known = kLetters.find(letter); known != std::string_view::npos) {
      text += kMeant[known];
      i += 2;
    } else if (letter == '\n') {
      i += 2;
    } else if (letter == 'x' || letter == 'u' || letter == 'U') {
      const size_t digits = letter == 'x' ? 2 : (letter == 'u' ? 4 : 8);
      const std::string hex(rest.substr(i + 2, digits));
      uint64_t code_point = 0;
      if (hex.size() != digits || !std::all_of(hex.begin(), hex.end(), IsHex) ||
          !absl::SimpleHexAtoi(hex, &code_point) || code_point > 0x10ffff) {
        return Error(absl::StrCat("'\\", std::string(rest.substr(i + 1, 1 + digits)),
                                  "' is not an escape sequence"));
      }
      AppendCodePoint(text, static_cast<uint32_t>(code_point));
      i += 2 + digits;
    } else if (letter >= '0' && letter <= '7') {
      uint32_t code_point = 0;
      size_t digits = 0;
      for (; digits < 3 && i + 1 + digits < rest.size(); ++digits) {
        const char digit = rest[i + 1 + digits];
        if (digit < '0' || digit > '7') break;
        code_point = code_point * 8 + static_cast<uint32_t>(digit - '0');
      }
      AppendCodePoint(text, code_point);
      i += 1 + digits;
    } else if (letter == 'N') {
      return absl::UnimplementedError(absl::StrCat("chat template line ", line_,
                                                   ": the escape sequence '\\N' is not supported"));
    } else {
      text += '\\';  // Python keeps the backslash of an unknown sequence
      ++i;
    }
    return absl::OkStatus();
  }

  const std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  return Lexer(WithUnixNewlines(source)).Run();
}

}  // namespace chorale::jinja
