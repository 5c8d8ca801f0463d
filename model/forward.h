// One forward pass over a batch: the order of the operations, and their scratch memory.
#pragma once

#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "model/model.h"
#include "model/rope.h"
#include "model/weights.h"

namespace chorale {

// Everything is borrowed and must outlive the Forward. Not thread safe.
class ForwardPass {
 public:
  ForwardPass(const ModelConfig& config, const Weights& weights, const Rope& rope,
              const kernels::Kernels& kernels, kernels::ThreadPool& pool);

  // As Model::Forward.
  void Run(std::span<const BatchSequence> batch, kernels::KvMemory kv, std::vector<float>& logits);

 private:
  void Begin(std::span<const BatchSequence> batch);
  void Qkv(int layer, const LayerWeights& weights);
  void Attend(int layer, kernels::KvMemory kv);
  void Project(int layer, const LayerWeights& weights);
  void FeedForward(int layer, const LayerWeights& weights);
  void Logits(std::vector<float>& logits);
  void KeepRowsWithLogits(std::span<const BatchSequence> batch);

  void Norm(const float* x, const std::vector<float>& weight, float* out);
  void Adapt(int layer, Linear linear, const std::vector<float>& x, int in, float* y,
             int64_t y_stride);
  void AddRows(int row_begin, int rows, const Adapter* adapter);

  const ModelConfig& config_;
  const Weights& weights_;
  const Rope& rope_;
  const kernels::Kernels& kernels_;
  kernels::ThreadPool& pool_;

  // The batch under way. Rows of one adapter that lie together are one group.
  struct AdapterGroup {
    int row_begin = 0;
    int rows = 0;
    const Adapter* adapter = nullptr;
  };
  int rows_ = 0;
  int qkv_width_ = 0;
  std::vector<kernels::SequenceRows> sequences_;
  std::vector<AdapterGroup> groups_;
  std::vector<kernels::AdapterRows> adapter_rows_;  // of one linear layer
  std::vector<TokenId> tokens_;
  std::vector<int> positions_;
  std::vector<float> cos_, sin_;  // [rows, head_dim / 2]
  std::vector<float> x_;          // [rows, hidden], the residual stream
  std::vector<float> normed_;     // [rows, hidden]
  std::vector<float> qkv_;        // [rows, q_size + 2 kv_size]
  std::vector<float> attended_;   // [rows, q_size]
  std::vector<float> gate_up_;    // [rows, 2 ffn]
  std::vector<float> activated_;  // [rows, ffn]
};

}  // namespace chorale
