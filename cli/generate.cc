// `chorale generate`: one completion, streamed to stdout.
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "cli/sampling_flags.h"
#include "engine/request.h"

namespace chorale::cli {
namespace {

struct GenerateOptions {
  ClusterFlags cluster;
  std::string api_key;
  v1::GenerateRequest request;
  std::string prompt;
  std::vector<int> prompt_ids;
  std::optional<int> logprobs;
  int n = 1;
  int timeout_s = 600;
  bool json = false;
  bool timing = false;
};

struct Sequence {
  std::string text;
  std::vector<int> token_ids;
  Json logprobs = Json::array();
  std::string finish_reason;
};

// A completion as it comes in. The first sequence is printed at once, the others when all is there.
struct Completion {
  std::vector<Sequence> sequences;
  v1::Usage usage;
  v1::Timing timing;
  absl::Time sent = absl::Now();
  absl::Time first_token = absl::InfiniteFuture();
  absl::Time ended;
};

const char* NameOf(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    default:
      return "";
  }
}

Json ToJson(const v1::TokenLogprob& token) {
  return {{"token_id", token.token_id()}, {"logprob", token.logprob()}, {"text", token.text()}};
}

void Take(const v1::GenerateChunk& chunk, Completion& completion) {
  if (chunk.index() >= 0 && chunk.index() < static_cast<int>(completion.sequences.size())) {
    Sequence& sequence = completion.sequences[chunk.index()];
    sequence.text += chunk.text();
    sequence.token_ids.insert(sequence.token_ids.end(), chunk.token_ids().begin(),
                              chunk.token_ids().end());
    for (const v1::ChosenToken& chosen : chunk.logprobs()) {
      Json token = ToJson(chosen.chosen());
      token["top"] = Json::array();
      for (const v1::TokenLogprob& top : chosen.top()) token["top"].push_back(ToJson(top));
      sequence.logprobs.push_back(std::move(token));
    }
    if (chunk.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) {
      sequence.finish_reason = NameOf(chunk.finish_reason());
    }
  }
  if (chunk.token_ids_size() > 0 && completion.first_token == absl::InfiniteFuture()) {
    completion.first_token = absl::Now();
  }
  if (chunk.has_usage()) completion.usage = chunk.usage();
  if (chunk.has_timing()) completion.timing = chunk.timing();
}

void PrintJson(const Completion& completion) {
  Json choices = Json::array();
  for (const Sequence& sequence : completion.sequences) {
    choices.push_back({{"text", sequence.text},
                       {"token_ids", sequence.token_ids},
                       {"finish_reason", sequence.finish_reason},
                       {"logprobs", sequence.logprobs}});
  }
  const v1::Usage& usage = completion.usage;
  const v1::Timing& timing = completion.timing;
  absl::PrintF("%s\n", DumpJson({{"choices", std::move(choices)},
                                 {"usage",
                                  {{"prompt_tokens", usage.prompt_tokens()},
                                   {"cached_tokens", usage.cached_tokens()},
                                   {"transferred_tokens", usage.transferred_tokens()},
                                   {"completion_tokens", usage.completion_tokens()}}},
                                 {"timing",
                                  {{"queue_us", timing.queue_us()},
                                   {"prefill_us", timing.prefill_us()},
                                   {"first_token_us", timing.first_token_us()},
                                   {"total_us", timing.total_us()}}}}));
}

void PrintTiming(const Completion& completion) {
  const v1::Usage& usage = completion.usage;
  const v1::Timing& timing = completion.timing;
  const int computed = usage.prompt_tokens() - usage.cached_tokens() - usage.transferred_tokens();
  const absl::Duration decoding = completion.ended - completion.first_token;
  const double rate = usage.completion_tokens() > 1 && decoding > absl::ZeroDuration()
                          ? (usage.completion_tokens() - 1) / absl::ToDoubleSeconds(decoding)
                          : 0;
  const std::vector<std::vector<std::string>> rows = {
      {"WHERE THE TIME WENT", ""},
      {"waiting in the worker's queue", Readable(absl::Microseconds(timing.queue_us()))},
      {"prompt's K/V, hand-off included",
       absl::StrFormat("%s (%d tokens: %d cached, %d handed over, %d computed at decode)",
                       Readable(absl::Microseconds(timing.prefill_us())), usage.prompt_tokens(),
                       usage.cached_tokens(), usage.transferred_tokens(), computed)},
      {"first token, in the worker", Readable(absl::Microseconds(timing.first_token_us()))},
      {"first token, as seen here",
       usage.completion_tokens() == 0 ? "-" : Readable(completion.first_token - completion.sent)},
      {"all tokens, as seen here", absl::StrFormat("%s (%d tokens, %.1f a second after the first)",
                                                   Readable(completion.ended - completion.sent),
                                                   usage.completion_tokens(), rate)}};
  absl::FPrintF(stderr, "\n%s", Table(rows));
}

void PrintRest(const Completion& completion) {
  absl::PrintF("\n");
  for (size_t i = 1; i < completion.sequences.size(); ++i) {
    absl::PrintF("\n--- %d of %d ---\n%s\n", i + 1, completion.sequences.size(),
                 completion.sequences[i].text);
  }
}

absl::Status FillPrompt(GenerateOptions& options) {
  if (!options.prompt_ids.empty()) {
    for (const int id : options.prompt_ids) options.request.mutable_token_ids()->add_ids(id);
    return absl::OkStatus();
  }
  if (options.prompt == "-") {
    options.prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  }
  if (options.prompt.empty()) {
    return absl::InvalidArgumentError(
        "no prompt: give --prompt TEXT, --prompt - for stdin, or --prompt-ids 1,2,3");
  }
  options.request.set_text(options.prompt);
  return absl::OkStatus();
}

absl::Status Generate(GenerateOptions& options) {
  ASSIGN_OR_RETURN(const std::string address, FindRouter(options.cluster));
  RETURN_IF_ERROR(FillPrompt(options));
  options.request.set_n(options.n);
  if (options.logprobs) options.request.mutable_sampling()->set_logprobs(*options.logprobs);

  BlockInterrupts();
  RouterClient router(address, options.api_key);
  const InterruptWatch watch([&router] { router.Cancel(); });
  Completion completion;
  completion.sequences.resize(options.n);
  const absl::Status status = router.Generate(
      options.request, absl::Seconds(options.timeout_s), [&](const v1::GenerateChunk& chunk) {
        Take(chunk, completion);
        if (options.json || chunk.index() != 0) return;
        fwrite(chunk.text().data(), 1, chunk.text().size(), stdout);
        fflush(stdout);
      });
  completion.ended = absl::Now();
  if (!options.json && (status.ok() || !completion.sequences[0].text.empty())) {
    PrintRest(completion);
  }
  RETURN_IF_ERROR(status);
  if (options.json) PrintJson(completion);
  if (options.timing) PrintTiming(completion);
  return absl::OkStatus();
}

}  // namespace

void AddGenerate(CLI::App& app, Command& chosen) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* generate = app.add_subcommand("generate", "stream one completion to stdout");
  generate->add_option_function<std::string>(
      "-m,--model", [options](const std::string& name) { options->request.set_model(name); },
      "may be left out when there is one");
  CLI::Option* prompt =
      generate->add_option("--prompt", options->prompt, "text; - reads it from stdin");
  generate->add_option("--prompt-ids", options->prompt_ids, "token ids instead, such as 1,2,3")
      ->delimiter(',')
      ->excludes(prompt);
  generate->add_option("--n", options->n, "sequences")
      ->capture_default_str()
      ->check(CLI::Range(1, kSequencesOfRequestMax));
  generate->add_flag_callback(
      "--no-prefix-reuse", [options] { options->request.set_no_prefix_reuse(true); },
      "neither read nor publish cached K/V");
  CLI::Option* json =
      generate->add_flag("--json", options->json, "print one JSON object at the end");
  generate->add_option("--logprobs", options->logprobs, "alternatives beside each chosen token")
      ->needs(json);
  generate->add_flag("--timing", options->timing, "say on stderr where the time went");
  generate->add_option("--timeout-seconds", options->timeout_s, "deadline of the call")
      ->capture_default_str()
      ->check(CLI::Range(1, 86'400));
  AddSamplingFlags(*generate, *options->request.mutable_sampling());
  AddClusterFlags(*generate, options->cluster);
  AddApiKeyFlag(*generate, options->api_key);
  generate->footer("Example: chorale generate --prompt 'def main():' --max-tokens 64 --timing");
  generate->callback([options, &chosen] {
    chosen = [options] {
      const absl::Status status = Generate(*options);
      return status.ok() ? 0 : Fail(status);
    };
  });
}

}  // namespace chorale::cli
