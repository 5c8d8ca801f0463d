#include "model/text/chat_template.h"

#include <utility>

#include "base/status_macros.h"
#include "model/jinja/eval.h"
#include "model/jinja/parser.h"

namespace chorale {

struct ChatTemplate::Program {
  std::string source;
  jinja::Body body;
};

ChatTemplate::ChatTemplate(std::unique_ptr<const Program> program) : program_(std::move(program)) {}
ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<std::unique_ptr<const ChatTemplate>> ChatTemplate::Parse(std::string_view source) {
  ASSIGN_OR_RETURN(jinja::Body body, jinja::ParseTemplate(source));
  auto program = std::make_unique<const Program>(Program{std::string(source), std::move(body)});
  return std::unique_ptr<const ChatTemplate>(new ChatTemplate(std::move(program)));
}

bool ChatTemplate::Mentions(std::string_view word) const {
  return program_->source.find(word) != std::string::npos;
}

absl::StatusOr<std::string> ChatTemplate::Render(const nlohmann::ordered_json& context) const {
  return jinja::RenderTemplate(program_->body, context);
}

}  // namespace chorale
