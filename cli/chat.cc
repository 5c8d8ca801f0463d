// `chorale chat`: a conversation on stdin and stdout, one line a turn.
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <utility>

#include <unistd.h>

#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/sampling_flags.h"

namespace chorale::cli {
namespace {

struct ChatOptions {
  ClusterFlags cluster;
  std::string api_key;
  v1::GenerateRequest request;  // model and sampling
  std::string system;
  int timeout_s = 600;
};

class Conversation {
 public:
  explicit Conversation(std::string system) : system_(std::move(system)) { Reset(); }

  void Reset() {
    messages_ = Json::array();
    if (!system_.empty()) Add("system", system_);
  }
  void Add(const char* role, const std::string& content) {
    messages_.push_back({{"role", role}, {"content", content}});
  }
  void DropLast() { messages_.erase(messages_.end() - 1); }
  std::string ToText() const { return DumpJson(messages_); }

 private:
  const std::string system_;
  Json messages_;
};

// The next line of input; false at its end. Ctrl-C ends the program while it waits here.
bool ReadLine(bool is_terminal, std::string& line) {
  if (is_terminal) {
    absl::PrintF("> ");
    fflush(stdout);
  }
  UnblockInterrupts();
  const bool read = static_cast<bool>(std::getline(std::cin, line));
  BlockInterrupts();
  return read;
}

// Prints the answer as it comes and returns it. Cancelled: the user had enough of it.
absl::StatusOr<std::string> Answer(RouterClient& router, const ChatOptions& options,
                                   const Conversation& conversation) {
  v1::GenerateRequest request = options.request;
  request.mutable_chat()->set_messages_json(conversation.ToText());
  std::string text;
  const InterruptWatch watch([&router] { router.Cancel(); });
  const absl::Status status = router.Generate(
      request, absl::Seconds(options.timeout_s), [&](const v1::GenerateChunk& chunk) {
        fwrite(chunk.text().data(), 1, chunk.text().size(), stdout);
        fflush(stdout);
        text += chunk.text();
      });
  if (!text.empty()) absl::PrintF("\n");
  RETURN_IF_ERROR(status);
  return text;
}

absl::Status Chat(const ChatOptions& options) {
  ASSIGN_OR_RETURN(const std::string address, FindRouter(options.cluster));
  BlockInterrupts();
  RouterClient router(address, options.api_key);
  const bool is_terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
  if (is_terminal)
    absl::PrintF("/reset starts anew, /exit or Ctrl-D ends, Ctrl-C stops an answer.\n");
  Conversation conversation(options.system);
  absl::Status last;
  std::string line;
  while (ReadLine(is_terminal, line)) {
    const std::string turn(absl::StripAsciiWhitespace(line));
    if (turn.empty()) continue;
    if (turn == "/exit") break;
    if (turn == "/reset") {
      conversation.Reset();
      continue;
    }
    conversation.Add("user", turn);
    const absl::StatusOr<std::string> answer = Answer(router, options, conversation);
    last = answer.status();
    if (answer.ok()) {
      conversation.Add("assistant", *answer);
      continue;
    }
    conversation.DropLast();
    if (absl::IsCancelled(last)) {
      absl::FPrintF(stderr, "(stopped; this turn is forgotten)\n");
      if (!is_terminal) break;
    } else {
      if (!is_terminal) return last;
      absl::FPrintF(stderr, "chorale: %s\n", last.message());
    }
  }
  return is_terminal ? absl::OkStatus() : last;
}

}  // namespace

void AddChat(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<ChatOptions>();
  CLI::App* chat = app.add_subcommand("chat", "talk with a model, one line a turn");
  chat->add_option_function<std::string>(
      "-m,--model", [options](const std::string& name) { options->request.set_model(name); },
      "may be left out when there is one");
  chat->add_option("--system", options->system, "a system message before the first turn");
  chat->add_option("--timeout-seconds", options->timeout_s, "deadline of each answer")
      ->capture_default_str()
      ->check(CLI::Range(1, 86'400));
  AddSamplingFlags(*chat, *options->request.mutable_sampling());
  AddClusterFlags(*chat, options->cluster);
  AddApiKeyFlag(*chat, options->api_key);
  chat->footer(
      "/reset starts anew, /exit or the end of input ends.\n"
      "Example: chorale chat -m base --system 'Answer briefly.' --max-tokens 256");
  chat->callback([options, &chosen] {
    chosen = [options] {
      const absl::Status status = Chat(*options);
      if (status.ok()) return 0;
      return Fail(status);
    };
  });
}

}  // namespace chorale::cli
