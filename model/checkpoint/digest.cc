#include "model/checkpoint/digest.h"

#include <bit>

namespace chorale {
namespace {

void AddDouble(double value, DigestBuilder& digest) {
  digest.AddInt(std::bit_cast<int64_t>(value));
}

void AddRope(const ModelConfig& config, DigestBuilder& digest) {
  const RopeScaling& scaling = config.rope_scaling;
  digest.AddInt(static_cast<int64_t>(scaling.kind)).AddInt(scaling.original_positions);
  for (double value :
       {config.rope_theta, scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor,
        scaling.beta_fast, scaling.beta_slow, scaling.attention_factor}) {
    AddDouble(value, digest);
  }
  for (const std::vector<double>* divisors : {&scaling.short_divisors, &scaling.long_divisors}) {
    for (double value : *divisors) AddDouble(value, digest);
  }
}

// Above the first layer keys and values depend on what the layers below saw.
void AddWindow(const AttentionWindow& window, DigestBuilder& digest) {
  if (window.tokens == 0) return;
  digest.AddString("window").AddInt(window.tokens);
  for (bool windowed : window.layers) digest.AddInt(windowed);
}

}  // namespace

Digest DigestOfTensor(const Tensor& tensor) {
  DigestBuilder digest;
  digest.AddString(tensor.name).AddString(tensor.dtype_name);
  digest.AddInt(static_cast<int64_t>(tensor.shape.size()));
  for (int64_t dimension : tensor.shape) digest.AddInt(dimension);
  return digest.AddRaw(tensor.bytes).Finish();
}

Digest DigestOfBase(const ModelConfig& config, kernels::DType dtype, const TensorDigests& tensors) {
  DigestBuilder digest;
  digest.AddString("chorale base").AddInt(kernels::kKvLayoutVersion);
  digest.AddString(kernels::NameOf(dtype));
  for (int64_t value : {config.layers, config.hidden, config.heads, config.kv_heads,
                        config.head_dim, config.ffn, config.vocab}) {
    digest.AddInt(value);
  }
  for (bool value : {config.tied_embeddings, config.qkv_bias, config.o_bias, config.qk_norm}) {
    digest.AddInt(value);
  }
  AddDouble(config.norm_eps, digest);
  AddRope(config, digest);
  AddWindow(config.window, digest);
  for (const auto& [name, tensor] : tensors) digest.AddString(name).AddString(tensor.AsBytes());
  return digest.Finish();
}

Digest DigestOfModule(const Digest& base, const Digest& adapter) {
  DigestBuilder digest;
  digest.AddString("chorale module").AddString(base.AsBytes()).AddString(adapter.AsBytes());
  return digest.Finish();
}

}  // namespace chorale
