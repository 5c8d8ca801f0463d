#include "model/text/chat_template.h"

#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "model/jinja/eval.h"
#include "model/jinja/parser.h"

namespace chorale {

struct ChatTemplate::Program {
  jinja::Body body;
};

ChatTemplate::ChatTemplate(std::unique_ptr<const Program> program) : program_(std::move(program)) {}
ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<std::unique_ptr<const ChatTemplate>> ChatTemplate::Parse(std::string_view source) {
  ASSIGN_OR_RETURN(jinja::Body body, jinja::ParseTemplate(source));
  auto program = std::make_unique<const Program>(Program{std::move(body)});
  return std::unique_ptr<const ChatTemplate>(new ChatTemplate(std::move(program)));
}

absl::StatusOr<std::string> ChatTemplate::Render(const nlohmann::ordered_json& context) const {
  return jinja::RenderTemplate(program_->body, context);
}

namespace {

constexpr int64_t kTemplateBytesMax = 4 << 20;

absl::StatusOr<std::string> Token(const Json& config, std::string_view field) {
  const auto found = config.find(field);
  if (found == config.end() || found->is_null()) return std::string();
  if (found->is_object()) return JsonString(*found, "content");
  return JsonString(config, field);
}

absl::StatusOr<std::string> Template(const Json& config) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return std::string();
  if (!found->is_array()) return JsonString(config, "chat_template");
  for (const Json& named : *found) {
    ASSIGN_OR_RETURN(const std::string name, JsonString(named, "name"));
    if (name == "default") return JsonString(named, "template");
  }
  return std::string();
}

absl::StatusOr<std::string> ReadTemplateFile(const std::string& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) return absl::UnavailableError(absl::StrCat(path, ": ", error.message()));
  if (static_cast<int64_t>(size) > kTemplateBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", size, " bytes, more than the limit of ", kTemplateBytesMax));
  }
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  if (size > 0 && !(text << in.rdbuf())) {
    return absl::UnavailableError(absl::StrCat(path, ": cannot be read"));
  }
  return text.str();
}

}  // namespace

absl::StatusOr<TokenizerConfig> LoadTokenizerConfig(const std::string& model_folder) {
  TokenizerConfig config;
  const std::string path = model_folder + "/tokenizer_config.json";
  const absl::StatusOr<Json> json = ParseJsonFile(path);
  if (!json.ok() && !absl::IsNotFound(json.status())) return json.status();
  if (json.ok()) {
    if (!json->is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": expected a JSON object"));
    }
    ASSIGN_OR_RETURN(config.bos_token, Token(*json, "bos_token"));
    ASSIGN_OR_RETURN(config.eos_token, Token(*json, "eos_token"));
    ASSIGN_OR_RETURN(config.chat_template, Template(*json));
  }
  const std::string template_path = model_folder + "/chat_template.jinja";
  std::error_code error;
  if (std::filesystem::is_regular_file(template_path, error)) {
    ASSIGN_OR_RETURN(config.chat_template, ReadTemplateFile(template_path));
  }
  return config;
}

}  // namespace chorale
