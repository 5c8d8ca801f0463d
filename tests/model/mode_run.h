// A model run by the definition of its mode: the prompt up to its last token by one module, then a
// row at a time by another. No engine, no cache, no batch.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "model/forward.h"
#include "model/module.h"

namespace chorale {

struct ModeRun {
  std::vector<TokenId> tokens;             // greedy, `count` of them
  std::vector<std::vector<float>> logits;  // of each step
};

inline ModeRun RunByDefinition(const Model& model, std::span<const TokenId> prompt, int count,
                               kernels::ThreadPool& pool) {
  std::vector<kernels::BlockId> blocks((prompt.size() + count) / kernels::kBlockTokens + 1);
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<int>(i);
  const kernels::KvShape shape = model.predictor.transformer->kv_shape();
  kernels::Buffer memory(shape.block_bytes() * blocks.size());
  const kernels::KvMemory kv{memory.data(), shape};
  ForwardPass forward(pool);
  std::vector<TokenId> tokens(prompt.begin(), prompt.end());
  std::vector<float> logits;
  if (prompt.size() > 1) {
    const BatchSequence all{.tokens = prompt.first(prompt.size() - 1),
                            .blocks = blocks,
                            .adapter = model.prompt_writer.adapter.get()};
    forward.Run(*model.prompt_writer.transformer, {&all, 1}, kv, logits);
  }
  ModeRun run;
  for (int i = 0; i < count; ++i) {
    const BatchSequence row{.tokens = std::span(tokens).last(1),
                            .context = static_cast<int>(tokens.size()) - 1,
                            .blocks = blocks,
                            .adapter = model.output_writer.adapter.get(),
                            .reader = model.reader(),
                            .wants_logits = true};
    logits.clear();
    forward.Run(*model.predictor.transformer, {&row, 1}, kv, logits);
    run.logits.push_back(logits);
    tokens.push_back(
        static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    run.tokens.push_back(tokens.back());
  }
  return run;
}

}  // namespace chorale
