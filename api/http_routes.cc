#include "api/http_routes.h"

#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "api/openai_response.h"

namespace chorale {
namespace {

constexpr std::string_view kModels = "/v1/models";

// %41 -> A; a broken escape stays as it is.
std::string PercentDecoded(std::string_view text) {
  const auto digit = [](char c) {
    return absl::ascii_isdigit(c) ? c - '0' : absl::ascii_tolower(c) - 'a' + 10;
  };
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && absl::ascii_isxdigit(text[i + 1]) &&
        absl::ascii_isxdigit(text[i + 2])) {
      out += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

HttpAnswer WrongMethod(std::string_view method, std::string_view path, const char* allowed) {
  HttpAnswer answer =
      AnswerFor(405, absl::InvalidArgumentError(absl::StrFormat(
                         "method %s is not allowed for %s; use %s", method, path, allowed)));
  answer.fields.emplace_back("Allow", allowed);
  return answer;
}

HttpAnswer Health(const RouteView& view) {
  bool served = false;
  for (const ModelEntry& model : *view.models) served |= model.decode_workers > 0;
  if (view.draining) return AnswerFor(absl::UnavailableError("the server is shutting down"));
  if (!served) return AnswerFor(absl::UnavailableError("no worker is ready yet, try again soon"));
  return {.body = R"({"status":"ok"})"};
}

HttpAnswer Model(const std::string& name, const RouteView& view) {
  const ModelEntry* model = view.models->Find(name);
  if (model != nullptr) return {.body = ModelBody(*model, view.started_seconds)};
  return AnswerFor(absl::NotFoundError(
      absl::StrFormat("model '%s' does not exist; GET /v1/models lists those that do", name)));
}

}  // namespace

std::variant<OpenAiEndpoint, HttpAnswer> RouteRequest(std::string_view method,
                                                      std::string_view target,
                                                      const RouteView& view) {
  const std::string_view path = target.substr(0, target.find('?'));
  const bool reads = method == "GET" || method == "HEAD";
  const bool completions = path == "/v1/completions";
  if (completions || path == "/v1/chat/completions") {
    if (method != "POST") return WrongMethod(method, path, "POST");
    return completions ? OpenAiEndpoint::kCompletions : OpenAiEndpoint::kChatCompletions;
  }
  if (path == "/health") return reads ? Health(view) : WrongMethod(method, path, "GET, HEAD");
  if (path == kModels) {
    if (!reads) return WrongMethod(method, path, "GET, HEAD");
    return HttpAnswer{.body = ModelsBody(*view.models, view.started_seconds)};
  }
  if (path.size() > kModels.size() + 1 && path.substr(0, kModels.size()) == kModels &&
      path[kModels.size()] == '/') {
    if (!reads) return WrongMethod(method, path, "GET, HEAD");
    return Model(PercentDecoded(path.substr(kModels.size() + 1)), view);
  }
  return AnswerFor(absl::NotFoundError(
      absl::StrFormat("no such URL: %s %s; there are GET /v1/models, POST /v1/completions, POST "
                      "/v1/chat/completions and GET /health",
                      method, path.substr(0, 200))));
}

}  // namespace chorale
