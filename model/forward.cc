#include "model/forward.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "kernels/formats/kv_codec.h"

namespace chorale {

using kernels::SequenceRows;

void ForwardPass::Run(const Transformer& transformer, std::span<const BatchSequence> batch,
                      kernels::KvMemory kv, std::vector<float>& logits,
                      absl::FunctionRef<void(int layers)> on_layers) {
  transformer_ = &transformer;
  CHECK(kv.shape == transformer.kv_shape());
  Begin(batch);
  if (rows_ == 0) return;
  Embed();
  for (int layer = 0; layer < config().layers; ++layer) {
    Qkv(layer);
    kernels().store_kv({.k = qkv_.data() + config().q_size(),
                        .v = qkv_.data() + config().q_size() + config().kv_size(),
                        .k_stride = qkv_width(),
                        .v_stride = qkv_width(),
                        .sequences = sequences_,
                        .layer = layer,
                        .kv = kv},
                       pool_);
    on_layers(layer + 1);
    // Above the last layer's K/V only the rows that want logits matter.
    if (layer == config().layers - 1) KeepRowsWithLogits(batch);
    if (rows_ == 0) return;
    Attend(layer, kv);
    Project(layer);
    FeedForward(layer);
  }
  Logits(logits);
}

void ForwardPass::Begin(std::span<const BatchSequence> batch) {
  sequences_.clear();
  groups_.clear();
  tokens_.clear();
  places_.clear();
  for (const BatchSequence& sequence : batch) {
    const int rows = static_cast<int>(sequence.tokens.size());
    const int row_begin = static_cast<int>(tokens_.size());
    CHECK_GE(rows, 1);
    CHECK_LE(sequence.context + rows, config().positions_max);
    CHECK_GE(static_cast<int64_t>(sequence.blocks.size()) * kernels::kBlockTokens,
             sequence.context + rows);
    sequences_.push_back({.row_begin = row_begin,
                          .rows = rows,
                          .context = sequence.context,
                          .blocks = sequence.blocks.data()});
    AddRows(row_begin, rows, sequence.adapter);
    tokens_.insert(tokens_.end(), sequence.tokens.begin(), sequence.tokens.end());
    for (int i = 0; i < rows; ++i) {
      places_.push_back({sequence.context + i, sequence.long_context});
    }
  }
  AddReaders(batch);
  rows_ = static_cast<int>(tokens_.size());
  SizeScratch();
  transformer_->rope().Fill(places_, cos_.data(), sin_.data(), pool_);
}

// Readers lie behind all writers, so that those of one adapter lie together.
void ForwardPass::AddReaders(std::span<const BatchSequence> batch) {
  for (size_t i = 0; i < batch.size(); ++i) {
    if (batch[i].reader == nullptr || !batch[i].wants_logits) continue;
    const int row = static_cast<int>(tokens_.size());
    sequences_[i].reader_row = row;
    AddRows(row, 1, batch[i].reader);
    tokens_.push_back(batch[i].tokens.back());
    places_.push_back({sequences_[i].context + sequences_[i].rows - 1, batch[i].long_context});
  }
}

void ForwardPass::SizeScratch() {
  const size_t rows = rows_;
  const size_t half = config().head_dim / 2;
  cos_.resize(rows * half);
  sin_.resize(rows * half);
  x_.resize(rows * config().hidden);
  normed_.resize(rows * config().hidden);
  qkv_.resize(rows * qkv_width());
  attended_.resize(rows * config().q_size());
  gate_up_.resize(rows * 2 * config().ffn);
  activated_.resize(rows * config().ffn);
}

void ForwardPass::AddRows(int row_begin, int rows, const Adapter* adapter) {
  if (!groups_.empty() && groups_.back().adapter == adapter) {
    groups_.back().rows += rows;
  } else {
    groups_.push_back({row_begin, rows, adapter});
  }
}

// Every row by the weight of its adapter; rows of one weight that lie together in one call.
void ForwardPass::Norm(kernels::RmsNormArgs args, WeightOf weight_of) {
  args.eps = config().norm_eps;
  const float* x = args.x;
  float* out = args.out;
  for (size_t i = 0; i < groups_.size();) {
    const std::vector<float>& weight = weight_of(groups_[i].adapter);
    args.weight = weight.data();
    args.x = x + groups_[i].row_begin * args.x_stride;
    args.out = out + groups_[i].row_begin * args.out_stride;
    args.rows = 0;
    for (; i < groups_.size() && &weight_of(groups_[i].adapter) == &weight; ++i) {
      args.rows += groups_[i].rows;
    }
    kernels().rms_norm(args, pool_);
  }
}

void ForwardPass::NormLayer(int layer, LayerNorm norm, kernels::RmsNormArgs args) {
  const std::vector<float>& of_base = NormOf(weights(layer), norm);
  if (of_base.empty()) return;
  Norm(args, [&](const Adapter* adapter) -> const std::vector<float>& {
    if (adapter == nullptr) return of_base;
    const std::vector<float>& own = adapter->own_norms[layer][static_cast<int>(norm)];
    return own.empty() ? of_base : own;
  });
}

kernels::RmsNormArgs ForwardPass::ResidualNorm() {
  const int hidden = config().hidden;
  return {.x = x_.data(),
          .dim = hidden,
          .x_stride = hidden,
          .out = normed_.data(),
          .out_stride = hidden};
}

// The rows' tokens, each by the embedding of its adapter: the base's or its own, and its update.
void ForwardPass::Embed() {
  const int hidden = config().hidden;
  kernels().embed(transformer_->weights().embedding, tokens_, x_.data(), pool_);
  for (const AdapterGroup& group : groups_) {
    if (group.adapter == nullptr) continue;
    const std::span<const TokenId> tokens = std::span(tokens_).subspan(group.row_begin, group.rows);
    float* x = x_.data() + int64_t{group.row_begin} * hidden;
    if (group.adapter->own_embedding.rows > 0) {
      kernels().embed(group.adapter->own_embedding, tokens, x, pool_);
    }
    const EmbeddingUpdate& update = group.adapter->embedding;
    if (!update.present()) continue;
    shrunk_.resize(static_cast<size_t>(group.rows) * update.a.cols);
    kernels().embed(update.a, tokens, shrunk_.data(), pool_);
    for (float& value : shrunk_) value *= update.scale;
    kernels().matmul({.w = update.b,
                      .x = shrunk_.data(),
                      .m = group.rows,
                      .x_stride = update.a.cols,
                      .y = x,
                      .y_stride = hidden,
                      .accumulate = true},
                     pool_);
  }
}

// The residual stream as it is, where an adapter needs it after `linear` has added to it; else
// null.
const float* ForwardPass::Keep(int layer, Linear linear) {
  for (const AdapterGroup& group : groups_) {
    if (group.adapter == nullptr) continue;
    if (group.adapter->layers[layer][static_cast<int>(linear)].gain.empty()) continue;
    kept_.assign(x_.begin(), x_.begin() + int64_t{rows_} * config().hidden);
    return kept_.data();
  }
  return nullptr;
}

// Adds what the adapters of the batch's rows say about one linear layer to the product with the
// matrix that it lies in. `kept` is what y held before that product was added to it.
void ForwardPass::Adapt(int layer, Linear linear, const std::vector<float>& x,
                        std::vector<float>& y, int64_t y_stride, const float* kept) {
  const LinearRows at = RowsOf(weights(layer), config(), linear);
  AdaptRows(
      [&](const Adapter& adapter) -> const LowRank& {
        return adapter.layers[layer][static_cast<int>(linear)];
      },
      x.data(), at.matrix.cols, y.data() + at.begin, y_stride, {.bias = at.bias, .kept = kept});
}

void ForwardPass::AdaptRows(absl::FunctionRef<const LowRank&(const Adapter&)> part_of,
                            const float* x, int in, float* y, int64_t y_stride,
                            const Start& start) {
  adapter_rows_.clear();
  bool any_to_finish = false;
  for (const AdapterGroup& group : groups_) {
    if (group.adapter == nullptr) continue;
    const LowRank& part = part_of(*group.adapter);
    any_to_finish |= !part.gain.empty() || !part.shift.empty();
    if (!part.present()) continue;
    adapter_rows_.push_back({.row_begin = group.row_begin,
                             .rows = group.rows,
                             .a = &part.a,
                             .b = &part.b,
                             .scale = part.scale});
  }
  if (!adapter_rows_.empty()) {
    kernels().adapters(
        {.groups = adapter_rows_, .x = x, .x_stride = in, .y = y, .y_stride = y_stride}, pool_);
  }
  if (!any_to_finish) return;
  for (const AdapterGroup& group : groups_) {
    if (group.adapter == nullptr) continue;
    const LowRank& part = part_of(*group.adapter);
    const int64_t offset = group.row_begin * y_stride;
    ApplyGain(part.gain, {.bias = start.bias, .kept = start.kept ? start.kept + offset : nullptr},
              group.rows, y + offset, y_stride);
    for (int row = 0; row < group.rows; ++row) {
      float* out = y + offset + row * y_stride;
      for (size_t i = 0; i < part.shift.size(); ++i) out[i] += part.shift[i];
    }
  }
}

void ForwardPass::Qkv(int layer) {
  const int q_size = config().q_size();
  const std::vector<float>& bias = weights(layer).qkv_bias;
  NormLayer(layer, LayerNorm::kAttention, ResidualNorm());
  kernels().matmul({.w = weights(layer).qkv,
                    .x = normed_.data(),
                    .m = rows_,
                    .x_stride = config().hidden,
                    .y = qkv_.data(),
                    .y_stride = qkv_width(),
                    .bias = bias.empty() ? nullptr : bias.data()},
                   pool_);
  for (const Linear linear : {Linear::kQ, Linear::kK, Linear::kV}) {
    Adapt(layer, linear, normed_, qkv_, qkv_width());
  }
  const auto norm_heads = [&](LayerNorm norm, float* x, int heads) {
    NormLayer(layer, norm,
              {.x = x,
               .groups = heads,
               .dim = config().head_dim,
               .x_stride = qkv_width(),
               .out = x,
               .out_stride = qkv_width()});
  };
  norm_heads(LayerNorm::kQ, qkv_.data(), config().heads);
  norm_heads(LayerNorm::kK, qkv_.data() + q_size, config().kv_heads);
  // Queries and keys lie side by side: one call turns the heads of both.
  kernels().rope({.x = qkv_.data(),
                  .rows = rows_,
                  .heads = config().heads + config().kv_heads,
                  .head_dim = config().head_dim,
                  .x_stride = qkv_width(),
                  .cos = cos_.data(),
                  .sin = sin_.data()},
                 pool_);
  if (!transformer_->kv_int8()) return;
  // So do keys and values.
  kernels::RoundKvRows({.x = qkv_.data() + q_size,
                        .rows = rows_,
                        .heads = 2 * config().kv_heads,
                        .head_dim = config().head_dim,
                        .x_stride = qkv_width()},
                       pool_);
}

void ForwardPass::Attend(int layer, kernels::KvMemory kv) {
  kernels().attention({.q = qkv_.data(),
                       .q_stride = qkv_width(),
                       .out = attended_.data(),
                       .out_stride = config().q_size(),
                       .heads = config().heads,
                       .scale = 1.0f / std::sqrt(static_cast<float>(config().head_dim)),
                       .window = config().window.of_layer(layer),
                       .sequences = sequences_,
                       .layer = layer,
                       .kv = kv},
                      pool_);
}

void ForwardPass::Project(int layer) {
  const std::vector<float>& bias = weights(layer).o_bias;
  const float* kept = Keep(layer, Linear::kO);
  kernels().matmul({.w = weights(layer).o,
                    .x = attended_.data(),
                    .m = rows_,
                    .x_stride = config().q_size(),
                    .y = x_.data(),
                    .y_stride = config().hidden,
                    .bias = bias.empty() ? nullptr : bias.data(),
                    .accumulate = true},
                   pool_);
  Adapt(layer, Linear::kO, attended_, x_, config().hidden, kept);
}

void ForwardPass::FeedForward(int layer) {
  const int64_t gate_up_width = 2 * int64_t{config().ffn};
  NormLayer(layer, LayerNorm::kFfn, ResidualNorm());
  kernels().matmul({.w = weights(layer).gate_up,
                    .x = normed_.data(),
                    .m = rows_,
                    .x_stride = config().hidden,
                    .y = gate_up_.data(),
                    .y_stride = gate_up_width},
                   pool_);
  Adapt(layer, Linear::kGate, normed_, gate_up_, gate_up_width);
  Adapt(layer, Linear::kUp, normed_, gate_up_, gate_up_width);
  kernels().swiglu({.gate_up = gate_up_.data(),
                    .gate_up_stride = gate_up_width,
                    .rows = rows_,
                    .dim = config().ffn,
                    .out = activated_.data(),
                    .out_stride = config().ffn},
                   pool_);
  const float* kept = Keep(layer, Linear::kDown);
  kernels().matmul({.w = weights(layer).down,
                    .x = activated_.data(),
                    .m = rows_,
                    .x_stride = config().ffn,
                    .y = x_.data(),
                    .y_stride = config().hidden,
                    .accumulate = true},
                   pool_);
  Adapt(layer, Linear::kDown, activated_, x_, config().hidden, kept);
}

// Moves the row that predicts, of every sequence that wants logits, to the front and forgets the
// others. A reader's row lies behind all writers' and so behind where it goes.
void ForwardPass::KeepRowsWithLogits(std::span<const BatchSequence> batch) {
  std::vector<SequenceRows> kept;
  groups_.clear();
  for (size_t i = 0; i < batch.size(); ++i) {
    if (!batch[i].wants_logits) continue;
    const SequenceRows& from = sequences_[i];
    const int64_t source = from.row_of(from.queries() - 1);
    const int row = static_cast<int>(kept.size());
    std::copy_n(x_.data() + source * config().hidden, config().hidden,
                x_.data() + int64_t{row} * config().hidden);
    std::copy_n(qkv_.data() + source * qkv_width(), config().q_size(),
                qkv_.data() + int64_t{row} * qkv_width());
    kept.push_back({.row_begin = row,
                    .rows = 1,
                    .context = from.context + from.rows - 1,
                    .blocks = from.blocks});
    AddRows(row, 1, batch[i].reader != nullptr ? batch[i].reader : batch[i].adapter);
  }
  sequences_ = std::move(kept);
  rows_ = static_cast<int>(sequences_.size());
}

void ForwardPass::Logits(std::vector<float>& logits) {
  const std::vector<float>& of_base = transformer_->weights().norm;
  Norm(ResidualNorm(), [&](const Adapter* adapter) -> const std::vector<float>& {
    return adapter == nullptr || adapter->own_norm.empty() ? of_base : adapter->own_norm;
  });
  const size_t before = logits.size();
  logits.resize(before + static_cast<size_t>(rows_) * config().vocab);
  kernels().matmul({.w = transformer_->weights().output_or_embedding(),
                    .x = normed_.data(),
                    .m = rows_,
                    .x_stride = config().hidden,
                    .y = logits.data() + before,
                    .y_stride = config().vocab},
                   pool_);
  AdaptLogits(logits.data() + before);
}

// What the adapters of the rows that are left say about the output matrix.
void ForwardPass::AdaptLogits(float* logits) {
  const int64_t vocab = config().vocab;
  const int64_t hidden = config().hidden;
  for (const AdapterGroup& group : groups_) {
    if (group.adapter == nullptr || group.adapter->own_output.rows == 0) continue;
    kernels().matmul({.w = group.adapter->own_output,
                      .x = normed_.data() + group.row_begin * hidden,
                      .m = group.rows,
                      .x_stride = hidden,
                      .y = logits + group.row_begin * vocab,
                      .y_stride = vocab},
                     pool_);
  }
  AdaptRows([](const Adapter& adapter) -> const LowRank& { return adapter.output; }, normed_.data(),
            config().hidden, logits, vocab, {});
}

}  // namespace chorale
