#include "model/forward.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"

namespace chorale {

using kernels::SequenceRows;

ForwardPass::ForwardPass(const ModelConfig& config, const Weights& weights, const Rope& rope,
                         const kernels::Kernels& kernels, kernels::ThreadPool& pool)
    : config_(config),
      weights_(weights),
      rope_(rope),
      kernels_(kernels),
      pool_(pool),
      qkv_width_(config.q_size() + 2 * config.kv_size()) {}

void ForwardPass::Run(std::span<const BatchSequence> batch, kernels::KvMemory kv,
                      std::vector<float>& logits) {
  logits.clear();
  Begin(batch);
  if (rows_ == 0) return;
  kernels_.embed(weights_.embedding, tokens_, x_.data(), pool_);
  for (int layer = 0; layer < config_.layers; ++layer) {
    const LayerWeights& weights = weights_.layers[layer];
    Qkv(layer, weights);
    kernels_.store_kv({.k = qkv_.data() + config_.q_size(),
                       .v = qkv_.data() + config_.q_size() + config_.kv_size(),
                       .k_stride = qkv_width_,
                       .v_stride = qkv_width_,
                       .sequences = sequences_,
                       .layer = layer,
                       .kv = kv},
                      pool_);
    // Above the last layer's K/V only the rows that want logits matter.
    if (layer == config_.layers - 1) KeepRowsWithLogits(batch);
    if (rows_ == 0) return;
    Attend(layer, kv);
    Project(layer, weights);
    FeedForward(layer, weights);
  }
  Logits(logits);
}

void ForwardPass::Begin(std::span<const BatchSequence> batch) {
  sequences_.clear();
  groups_.clear();
  tokens_.clear();
  positions_.clear();
  for (const BatchSequence& sequence : batch) {
    const int rows = static_cast<int>(sequence.tokens.size());
    const int row_begin = static_cast<int>(tokens_.size());
    CHECK_GE(rows, 1);
    CHECK_LE(sequence.context + rows, config_.positions_max);
    CHECK_GE(static_cast<int64_t>(sequence.blocks.size()) * kernels::kBlockTokens,
             sequence.context + rows);
    sequences_.push_back({.row_begin = row_begin,
                          .rows = rows,
                          .context = sequence.context,
                          .blocks = sequence.blocks.data()});
    AddRows(row_begin, rows, sequence.adapter);
    tokens_.insert(tokens_.end(), sequence.tokens.begin(), sequence.tokens.end());
    for (int i = 0; i < rows; ++i) positions_.push_back(sequence.context + i);
  }
  rows_ = static_cast<int>(tokens_.size());
  const size_t rows = rows_;
  const size_t half = config_.head_dim / 2;
  cos_.resize(rows * half);
  sin_.resize(rows * half);
  rope_.Fill(positions_, cos_.data(), sin_.data(), pool_);
  x_.resize(rows * config_.hidden);
  normed_.resize(rows * config_.hidden);
  qkv_.resize(rows * qkv_width_);
  attended_.resize(rows * config_.q_size());
  gate_up_.resize(rows * 2 * config_.ffn);
  activated_.resize(rows * config_.ffn);
}

void ForwardPass::AddRows(int row_begin, int rows, const Adapter* adapter) {
  if (!groups_.empty() && groups_.back().adapter == adapter) {
    groups_.back().rows += rows;
  } else {
    groups_.push_back({row_begin, rows, adapter});
  }
}

void ForwardPass::Norm(const float* x, const std::vector<float>& weight, float* out) {
  kernels_.rms_norm({.x = x,
                     .rows = rows_,
                     .dim = config_.hidden,
                     .x_stride = config_.hidden,
                     .weight = weight.data(),
                     .eps = config_.norm_eps,
                     .out = out,
                     .out_stride = config_.hidden},
                    pool_);
}

// Adds what the adapters of the batch's rows say about one linear layer.
void ForwardPass::Adapt(int layer, Linear linear, const std::vector<float>& x, int in, float* y,
                        int64_t y_stride) {
  adapter_rows_.clear();
  for (const AdapterGroup& group : groups_) {
    if (group.adapter == nullptr) continue;
    const LowRank& low_rank = group.adapter->layers[layer][static_cast<int>(linear)];
    if (!low_rank.present()) continue;
    adapter_rows_.push_back({.row_begin = group.row_begin,
                             .rows = group.rows,
                             .a = &low_rank.a,
                             .b = &low_rank.b,
                             .scale = low_rank.scale});
  }
  if (adapter_rows_.empty()) return;
  kernels_.adapters(
      {.groups = adapter_rows_, .x = x.data(), .x_stride = in, .y = y, .y_stride = y_stride},
      pool_);
}

void ForwardPass::Qkv(int layer, const LayerWeights& weights) {
  const int q_size = config_.q_size();
  const int kv_size = config_.kv_size();
  Norm(x_.data(), weights.attention_norm, normed_.data());
  kernels_.matmul({.w = weights.qkv,
                   .x = normed_.data(),
                   .m = rows_,
                   .x_stride = config_.hidden,
                   .y = qkv_.data(),
                   .y_stride = qkv_width_,
                   .bias = weights.qkv_bias.empty() ? nullptr : weights.qkv_bias.data()},
                  pool_);
  Adapt(layer, Linear::kQ, normed_, config_.hidden, qkv_.data(), qkv_width_);
  Adapt(layer, Linear::kK, normed_, config_.hidden, qkv_.data() + q_size, qkv_width_);
  Adapt(layer, Linear::kV, normed_, config_.hidden, qkv_.data() + q_size + kv_size, qkv_width_);
  const auto head_norm = [&](float* x, int heads, const std::vector<float>& weight) {
    if (weight.empty()) return;
    kernels_.rms_norm({.x = x,
                       .rows = rows_,
                       .groups = heads,
                       .dim = config_.head_dim,
                       .x_stride = qkv_width_,
                       .weight = weight.data(),
                       .eps = config_.norm_eps,
                       .out = x,
                       .out_stride = qkv_width_},
                      pool_);
  };
  head_norm(qkv_.data(), config_.heads, weights.q_norm);
  head_norm(qkv_.data() + q_size, config_.kv_heads, weights.k_norm);
  // Queries and keys lie side by side: one call turns the heads of both.
  kernels_.rope({.x = qkv_.data(),
                 .rows = rows_,
                 .heads = config_.heads + config_.kv_heads,
                 .head_dim = config_.head_dim,
                 .x_stride = qkv_width_,
                 .cos = cos_.data(),
                 .sin = sin_.data()},
                pool_);
}

void ForwardPass::Attend(int layer, kernels::KvMemory kv) {
  kernels_.attention({.q = qkv_.data(),
                      .q_stride = qkv_width_,
                      .out = attended_.data(),
                      .out_stride = config_.q_size(),
                      .heads = config_.heads,
                      .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim)),
                      .sequences = sequences_,
                      .layer = layer,
                      .kv = kv},
                     pool_);
}

void ForwardPass::Project(int layer, const LayerWeights& weights) {
  kernels_.matmul({.w = weights.o,
                   .x = attended_.data(),
                   .m = rows_,
                   .x_stride = config_.q_size(),
                   .y = x_.data(),
                   .y_stride = config_.hidden,
                   .bias = weights.o_bias.empty() ? nullptr : weights.o_bias.data(),
                   .accumulate = true},
                  pool_);
  Adapt(layer, Linear::kO, attended_, config_.q_size(), x_.data(), config_.hidden);
}

void ForwardPass::FeedForward(int layer, const LayerWeights& weights) {
  const int64_t gate_up_width = 2 * int64_t{config_.ffn};
  Norm(x_.data(), weights.ffn_norm, normed_.data());
  kernels_.matmul({.w = weights.gate_up,
                   .x = normed_.data(),
                   .m = rows_,
                   .x_stride = config_.hidden,
                   .y = gate_up_.data(),
                   .y_stride = gate_up_width},
                  pool_);
  Adapt(layer, Linear::kGate, normed_, config_.hidden, gate_up_.data(), gate_up_width);
  Adapt(layer, Linear::kUp, normed_, config_.hidden, gate_up_.data() + config_.ffn, gate_up_width);
  kernels_.swiglu({.gate_up = gate_up_.data(),
                   .gate_up_stride = gate_up_width,
                   .rows = rows_,
                   .dim = config_.ffn,
                   .out = activated_.data(),
                   .out_stride = config_.ffn},
                  pool_);
  kernels_.matmul({.w = weights.down,
                   .x = activated_.data(),
                   .m = rows_,
                   .x_stride = config_.ffn,
                   .y = x_.data(),
                   .y_stride = config_.hidden,
                   .accumulate = true},
                  pool_);
  Adapt(layer, Linear::kDown, activated_, config_.ffn, x_.data(), config_.hidden);
}

// Moves the last row of every sequence that wants logits to the front and forgets the others.
void ForwardPass::KeepRowsWithLogits(std::span<const BatchSequence> batch) {
  std::vector<SequenceRows> kept;
  groups_.clear();
  for (size_t i = 0; i < batch.size(); ++i) {
    if (!batch[i].wants_logits) continue;
    const SequenceRows& from = sequences_[i];
    const int64_t source = from.row_begin + from.rows - 1;
    const int row = static_cast<int>(kept.size());
    std::copy_n(x_.data() + source * config_.hidden, config_.hidden,
                x_.data() + int64_t{row} * config_.hidden);
    std::copy_n(qkv_.data() + source * qkv_width_, config_.q_size(),
                qkv_.data() + int64_t{row} * qkv_width_);
    kept.push_back({.row_begin = row,
                    .rows = 1,
                    .context = from.context + from.rows - 1,
                    .blocks = from.blocks});
    AddRows(row, 1, batch[i].adapter);
  }
  sequences_ = std::move(kept);
  rows_ = static_cast<int>(sequences_.size());
}

void ForwardPass::Logits(std::vector<float>& logits) {
  Norm(x_.data(), weights_.norm, normed_.data());
  logits.resize(static_cast<size_t>(rows_) * config_.vocab);
  kernels_.matmul({.w = weights_.output_or_embedding(),
                   .x = normed_.data(),
                   .m = rows_,
                   .x_stride = config_.hidden,
                   .y = logits.data(),
                   .y_stride = config_.vocab},
                  pool_);
}

}  // namespace chorale
