#include "text/chat_template.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "text/jinja/eval.h"
#include "text/jinja/syntax/mentions.h"
#include "text/jinja/syntax/parser.h"
#include "text/utf8.h"

namespace chorale {

struct ChatTemplate::Program {
  jinja::Body body;
};

ChatTemplate::ChatTemplate(std::unique_ptr<const Program> program) : program_(std::move(program)) {}
ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<std::unique_ptr<const ChatTemplate>> ChatTemplate::Parse(std::string_view source) {
  if (const std::optional<size_t> at = FindInvalidUtf8(source)) {
    const auto line = std::count(source.begin(), source.begin() + *at, '\n') + 1;
    return absl::InvalidArgumentError(absl::StrFormat(
        "chat template line %d: byte %d of the file is not UTF-8; save it as UTF-8", line, *at));
  }
  ASSIGN_OR_RETURN(jinja::Body body, jinja::ParseTemplate(source));
  auto program = std::make_unique<const Program>(Program{std::move(body)});
  return std::unique_ptr<const ChatTemplate>(new ChatTemplate(std::move(program)));
}

bool ChatTemplate::Mentions(std::string_view word) const {
  return jinja::Mentions(program_->body, word);
}

absl::StatusOr<std::string> ChatTemplate::Render(const nlohmann::ordered_json& context) const {
  return jinja::RenderTemplate(program_->body, context);
}

}  // namespace chorale
