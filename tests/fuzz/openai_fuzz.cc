// Any bytes as the body of a request to the OpenAI API: the first byte says of which endpoint.
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <variant>

#include "api/chat_messages.h"
#include "api/openai_request.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace chorale;
  if (size == 0) return 0;
  const auto endpoint =
      data[0] % 2 == 0 ? OpenAiEndpoint::kChatCompletions : OpenAiEndpoint::kCompletions;
  auto request = ParseOpenAiRequest(
      endpoint, std::string_view(reinterpret_cast<const char*>(data) + 1, size - 1));
  if (!request.ok()) return 0;
  auto* chat = std::get_if<Chat>(&request->completion.prompt);
  if (chat != nullptr) (void)ToTemplateForm(chat->messages);
  return 0;
}
