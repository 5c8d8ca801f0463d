// Runs one sequence through a model, for tests that compare logits.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "model/forward.h"

namespace chorale {

// Memory of some key/value blocks.
class Memory {
 public:
  Memory(const Transformer& model, int blocks)
      : shape_(model.kv_shape()), buffer_(shape_.block_bytes() * blocks) {}
  kernels::KvMemory kv() { return {buffer_.data(), shape_}; }

 private:
  kernels::KvShape shape_;
  kernels::Buffer buffer_;
};

inline std::vector<TokenId> Tokens(int count, int salt) {
  std::vector<TokenId> tokens(count);
  for (int i = 0; i < count; ++i) tokens[i] = (i * 37 + salt * 101 + i * i * salt) % 256;
  return tokens;
}

// The logits of one pass.
inline std::vector<float> RunBatch(const Transformer& model, std::span<const BatchSequence> batch,
                                   kernels::KvMemory kv) {
  kernels::ThreadPool pool(1);
  std::vector<float> logits;
  ForwardPass(pool).Run(model, batch, kv, logits);
  return logits;
}

// Logits after the last token, by way of chunks of `chunk` tokens, 0 for all at once. The blocks
// lie in reverse order.
inline std::vector<float> LogitsOf(const Transformer& model, std::span<const TokenId> tokens,
                                   int chunk = 0, const Adapter* adapter = nullptr) {
  const int count = static_cast<int>(tokens.size());
  std::vector<kernels::BlockId> blocks((count - 1) / kernels::kBlockTokens + 1);
  for (size_t i = 0; i < blocks.size(); ++i) {
    blocks[i] = static_cast<kernels::BlockId>(blocks.size() - 1 - i);
  }
  const int short_context = model.config().short_context();
  const bool long_context = short_context > 0 && count > short_context;
  Memory memory(model, static_cast<int>(blocks.size()));
  std::vector<float> logits;
  const int step = chunk == 0 ? count : chunk;
  for (int done = 0; done < count; done += step) {
    const int rows = std::min(step, count - done);
    const BatchSequence sequence{.tokens = tokens.subspan(done, rows),
                                 .context = done,
                                 .blocks = blocks,
                                 .adapter = adapter,
                                 .wants_logits = done + rows == count,
                                 .long_context = long_context};
    logits = RunBatch(model, {&sequence, 1}, memory.kv());
  }
  return logits;
}

}  // namespace chorale
