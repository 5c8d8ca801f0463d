#include "cli/sampling_flags.h"

#include <functional>
#include <string>
#include <vector>

namespace chorale::cli {

void AddSamplingFlags(CLI::App& app, v1::Sampling& sampling) {
  v1::Sampling* const s = &sampling;
  const auto number = [&app](const char* flag, std::function<void(double)> set, const char* help) {
    app.add_option_function<double>(flag, std::move(set), help)->group("Sampling");
  };
  const auto integer = [&app](const char* flag, std::function<void(int)> set, const char* help) {
    app.add_option_function<int>(flag, std::move(set), help)->group("Sampling");
  };
  integer(
      "--max-tokens", [s](int v) { s->set_max_tokens(v); }, "default: the model's, else what the context holds");
  number(
      "--temperature", [s](double v) { s->set_temperature(v); }, "0 is greedy; default: the model's, else 1");
  integer(
      "--top-k", [s](int v) { s->set_top_k(v); }, "0: all; default: the model's, else 0");
  number(
      "--top-p", [s](double v) { s->set_top_p(v); }, "default: the model's, else 1");
  number(
      "--min-p", [s](double v) { s->set_min_p(v); }, "default: the model's, else 0");
  number(
      "--presence-penalty", [s](double v) { s->set_presence_penalty(v); }, "default 0");
  number(
      "--frequency-penalty", [s](double v) { s->set_frequency_penalty(v); }, "default 0");
  number(
      "--repetition-penalty", [s](double v) { s->set_repetition_penalty(v); },
      "default: the model's, else 1");
  app.add_option_function<uint64_t>(
         "--seed", [s](uint64_t v) { s->set_seed(v); },
         "the same seed gives the same text; default: drawn")
      ->group("Sampling");
  app.add_option_function<std::vector<std::string>>(
         "--stop",
         [s](const std::vector<std::string>& texts) {
           for (const std::string& text : texts) s->add_stop(text);
         },
         "end before this text; repeatable")
      ->group("Sampling")
      ->type_size(1)
      ->allow_extra_args(false);
  app.add_flag_callback(
         "--ignore-eos", [s] { s->set_ignore_eos(true); }, "go on after the end-of-text token")
      ->group("Sampling");
}

}  // namespace chorale::cli
