// What rounding K/V to 8 bits does to the models of a family: outputs on held-out items, exact and
// rounded, and how often the next token is the same.
//
//   kv_int8_quality [--models FOLDER] [--items N] [--threads N] [--only NAME,NAME]
//
// Prints a JSON object a model: {"model", "task", "exact": [text], "int8": [text], "tokens",
// "tokens_equal"}. The last two are of the exact outputs: the tokens, and those that the rounded
// model predicts too when it has read the same before. kv_int8_quality.py scores the texts.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "model/forward.h"
#include "model/model_loader.h"
#include "text/tokenizer.h"

namespace chorale::bench {
namespace {

using Tokens = std::vector<TokenId>;

constexpr int kAnswerTokensMax = 56;  // as training/score.py
constexpr int kBatch = 32;

struct Options {
  std::string models = "models/family";
  std::vector<std::string> only;
  int items = 128;
  int threads = 2;
};

// Runs a batch of prompts to their ends, by a model's definition: prompts up to their last token by
// the prompt writer, then rows of the predictor.
class Generation {
 public:
  Generation(const Model& model, std::span<const Tokens> prompts, kernels::ThreadPool& pool)
      : model_(model), prompts_(prompts), forward_(pool) {
    size_t longest = 0;
    for (const Tokens& prompt : prompts) longest = std::max(longest, prompt.size());
    const int each = static_cast<int>(longest + kAnswerTokensMax) / kernels::kBlockTokens + 1;
    shape_ = model.predictor.transformer->kv_shape();
    memory_ = kernels::Buffer(shape_.block_bytes() * each * prompts.size());
    blocks_.resize(prompts.size());
    int next = 0;
    for (auto& blocks : blocks_) {
      for (int i = 0; i < each; ++i) blocks.push_back(next++);
    }
  }

  // The predicted tokens. With `forced`, each sequence reads its tokens in place of its own.
  std::vector<Tokens> Run(const std::vector<Tokens>* forced) {
    Prefill();
    std::vector<Tokens> outputs(prompts_.size());
    for (int step = 0; step < kAnswerTokensMax; ++step) {
      std::vector<size_t> running;
      for (size_t i = 0; i < prompts_.size(); ++i) {
        if (forced != nullptr ? outputs[i].size() < (*forced)[i].size() : !Ended(outputs[i])) {
          running.push_back(i);
        }
      }
      if (running.empty()) break;
      Step(running, step, forced != nullptr ? *forced : outputs, outputs);
    }
    return outputs;
  }

 private:
  void Prefill() {
    std::vector<BatchSequence> batch;
    for (size_t i = 0; i < prompts_.size(); ++i) {
      if (prompts_[i].size() < 2) continue;
      batch.push_back({.tokens = std::span(prompts_[i]).first(prompts_[i].size() - 1),
                       .blocks = blocks_[i],
                       .adapter = model_.prompt_writer.adapter.get()});
    }
    forward_.Run(*model_.prompt_writer.transformer, batch, {memory_.data(), shape_}, logits_);
  }

  void Step(const std::vector<size_t>& running, int step, const std::vector<Tokens>& read,
            std::vector<Tokens>& outputs) {
    std::vector<BatchSequence> batch;
    for (size_t i : running) {
      const Tokens& from = step == 0 ? prompts_[i] : read[i];
      const size_t at = step == 0 ? from.size() - 1 : step - 1;
      batch.push_back({.tokens = std::span(from).subspan(at, 1),
                       .context = static_cast<int>(prompts_[i].size()) - 1 + step,
                       .blocks = blocks_[i],
                       .adapter = model_.output_writer.adapter.get(),
                       .reader = model_.reader(),
                       .wants_logits = true});
    }
    const Transformer& predictor = *model_.predictor.transformer;
    logits_.clear();
    forward_.Run(predictor, batch, {memory_.data(), shape_}, logits_);
    const int vocab = predictor.config().vocab;
    for (size_t row = 0; row < running.size(); ++row) {
      outputs[running[row]].push_back(predictor.kernels().argmax(&logits_[row * vocab], vocab));
    }
  }

  bool Ended(const Tokens& output) const {
    const Tokens& ends = model_.predictor.transformer->config().eos_ids;
    return !output.empty() && std::find(ends.begin(), ends.end(), output.back()) != ends.end();
  }

  const Model& model_;
  const std::span<const Tokens> prompts_;
  ForwardPass forward_;
  kernels::KvShape shape_;
  kernels::Buffer memory_;
  std::vector<std::vector<kernels::BlockId>> blocks_;
  std::vector<float> logits_;
};

absl::StatusOr<std::vector<Tokens>> ReadPrompts(const std::string& path, int items,
                                                const Tokenizer& tokenizer) {
  std::ifstream in(path);
  if (!in) return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  std::vector<Tokens> prompts;
  for (std::string line; static_cast<int>(prompts.size()) < items && std::getline(in, line);) {
    ASSIGN_OR_RETURN(const Json json, ParseJson(line, path));
    ASSIGN_OR_RETURN(prompts.emplace_back(), tokenizer.Encode(json.value("prompt", ""), true));
    if (prompts.back().empty()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": an item without a prompt"));
    }
  }
  return prompts;
}

Json Compare(const Model& exact, const Model& rounded, std::span<const Tokens> prompts,
             const Tokenizer& tokenizer, kernels::ThreadPool& pool) {
  Json texts = {{"exact", Json::array()}, {"int8", Json::array()}};
  int64_t tokens = 0, equal = 0;
  const auto add = [&](const char* side, const std::vector<Tokens>& outputs) {
    for (const Tokens& output : outputs) texts[side].push_back(tokenizer.Decode(output, true));
  };
  for (size_t begin = 0; begin < prompts.size(); begin += kBatch) {
    const auto part = prompts.subspan(begin, std::min<size_t>(kBatch, prompts.size() - begin));
    const std::vector<Tokens> want = Generation(exact, part, pool).Run(nullptr);
    Generation generation(rounded, part, pool);
    add("exact", want);
    add("int8", generation.Run(nullptr));
    const std::vector<Tokens> predicted = generation.Run(&want);
    for (size_t i = 0; i < want.size(); ++i) {
      for (size_t t = 0; t < want[i].size(); ++t) equal += predicted[i][t] == want[i][t];
      tokens += static_cast<int64_t>(want[i].size());
    }
  }
  texts["tokens"] = tokens;
  texts["tokens_equal"] = equal;
  return texts;
}

absl::Status Run(const Options& options) {
  kernels::ThreadPool pool(options.threads);
  ASSIGN_OR_RETURN(const CatalogSpec catalog, ReadCatalog(options.models));
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(catalog.base + "/tokenizer.json"));
  Transformer::Options load;
  ASSIGN_OR_RETURN(load.kernels, kernels::FindKernels("cpu"));
  ASSIGN_OR_RETURN(const ModelLoader exact, ModelLoader::Open(catalog.base, load, pool, nullptr));
  load.kv_int8 = true;
  ASSIGN_OR_RETURN(const ModelLoader rounded, ModelLoader::Open(catalog.base, load, pool, nullptr));
  for (const ModelSpec& spec : catalog.models) {
    const auto& only = options.only;
    if (!only.empty() && std::find(only.begin(), only.end(), spec.name) == only.end()) continue;
    // A model is named TASK or TASK-KIND; the base has no task.
    const std::string task = spec.name.substr(0, spec.name.find('-'));
    if (task == "base") continue;
    ASSIGN_OR_RETURN(const auto prompts,
                     ReadPrompts(absl::StrCat(options.models, "/heldout/", task, ".jsonl"),
                                 options.items, *tokenizer));
    ASSIGN_OR_RETURN(const auto left, exact.Load({spec}, pool));
    ASSIGN_OR_RETURN(const auto right, rounded.Load({spec}, pool));
    Json record = Compare(*left[0], *right[0], prompts, *tokenizer, pool);
    record["model"] = spec.name;
    record["task"] = task;
    std::printf("%s\n", record.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace chorale::bench

int main(int argc, char** argv) {
  chorale::bench::Options options;
  CLI::App app("Outputs of a family with exact K/V and with K/V in 8 bits");
  app.add_option("--models", options.models, "folder of chorale.yaml and heldout/")
      ->capture_default_str();
  app.add_option("--only", options.only, "models, by comma")->delimiter(',');
  app.add_option("--items", options.items, "held-out items of a task")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--threads", options.threads, "of computing")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = chorale::bench::Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  return 1;
}
