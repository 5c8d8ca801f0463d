// One forward pass over a batch: the order of the operations, and their scratch memory.
//
//   tokens -> embed -> layers x (norm, qkv, rope, store K/V, attention, out, norm, swiglu) -> norm
//          -> logits of the rows that ask for them
//
// K/V are rounded to 8 bits before they are stored, where the transformer says so.
//
// A batch mixes prompt chunks and single decode rows of any sequences, each with its own adapter or
// none. A sequence with a reader (ICaRus) has one more row: the last token goes through the base
// weights twice in the same matrix products, once to write its K/V and once, with the reader's
// adapter, to predict.
#pragma once

#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/token.h"
#include "kernels/kernels.h"
#include "model/adapter/adapter.h"
#include "model/adapter/dora.h"
#include "model/transformer.h"

namespace chorale {

// Rows of one batch that belong to one sequence.
struct BatchSequence {
  std::span<const TokenId> tokens;           // the new rows; their K/V are written
  int context = 0;                           // tokens already in the blocks
  std::span<const kernels::BlockId> blocks;  // ceil((context + tokens) / kBlockTokens) at least
  const Adapter* adapter = nullptr;          // writes the K/V; null: the base
  const Adapter* reader = nullptr;           // predicts; null: what writes also predicts
  bool wants_logits = false;                 // of the last row
  bool long_context = false;                 // it has outgrown ModelConfig::short_context
};

// Not thread safe: one engine owns a ForwardPass. `pool` must outlive it.
class ForwardPass {
 public:
  explicit ForwardPass(kernels::ThreadPool& pool) : pool_(pool) {}

  // Writes K/V of every row into `kv`, whose shape is the transformer's, and appends the logits of
  // the sequences that want them, [count of wants_logits, vocab], in batch order. `on_layers(n)` is
  // told when the K/V of the first n layers is written.
  void Run(
      const Transformer& transformer, std::span<const BatchSequence> batch, kernels::KvMemory kv,
      std::vector<float>& logits, absl::FunctionRef<void(int layers)> on_layers = [](int) {});

 private:
  void Begin(std::span<const BatchSequence> batch);
  void AddReaders(std::span<const BatchSequence> batch);
  void SizeScratch();
  void Embed();
  void Qkv(int layer);
  void Attend(int layer, kernels::KvMemory kv);
  void Project(int layer);
  void FeedForward(int layer);
  void Logits(std::vector<float>& logits);
  void AdaptLogits(float* logits);
  void KeepRowsWithLogits(std::span<const BatchSequence> batch);

  const ModelConfig& config() const { return transformer_->config(); }
  const LayerWeights& weights(int layer) const { return transformer_->weights().layers[layer]; }
  const kernels::Kernels& kernels() const { return transformer_->kernels(); }
  int qkv_width() const { return config().q_size() + 2 * config().kv_size(); }
  // The weight of a norm for the rows of an adapter, or of none: its own or the base's.
  using WeightOf = absl::FunctionRef<const std::vector<float>&(const Adapter*)>;
  void Norm(kernels::RmsNormArgs args, WeightOf weight_of);
  void NormLayer(int layer, LayerNorm norm, kernels::RmsNormArgs args);
  kernels::RmsNormArgs ResidualNorm();
  void Adapt(int layer, Linear linear, const std::vector<float>& x, std::vector<float>& y,
             int64_t y_stride, const float* kept = nullptr);
  void AdaptRows(absl::FunctionRef<const LowRank&(const Adapter&)> part_of, const float* x, int in,
                 float* y, int64_t y_stride, const Start& start);
  const float* Keep(int layer, Linear linear);
  void AddRows(int row_begin, int rows, const Adapter* adapter);

  kernels::ThreadPool& pool_;

  // The batch under way. Rows of one adapter that lie together are one group.
  const Transformer* transformer_ = nullptr;
  struct AdapterGroup {
    int row_begin = 0;
    int rows = 0;
    const Adapter* adapter = nullptr;
  };
  int rows_ = 0;
  std::vector<kernels::SequenceRows> sequences_;
  std::vector<AdapterGroup> groups_;
  std::vector<kernels::AdapterRows> adapter_rows_;  // of one linear layer
  std::vector<TokenId> tokens_;
  std::vector<Rope::Place> places_;
  std::vector<float> cos_, sin_;  // [rows, head_dim / 2]
  std::vector<float> x_;          // [rows, hidden], the residual stream
  std::vector<float> kept_;       // [rows, hidden], x_ before a linear with a gain adds to it
  std::vector<float> normed_;     // [rows, hidden]
  std::vector<float> qkv_;        // [rows, q_size + 2 kv_size]
  std::vector<float> attended_;   // [rows, q_size]
  std::vector<float> gate_up_;    // [rows, 2 ffn]
  std::vector<float> activated_;  // [rows, ffn]
  std::vector<float> shrunk_;     // [rows, rank] of an embedding's update
};

}  // namespace chorale
