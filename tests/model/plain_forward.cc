#include "tests/model/plain_forward.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/check.h"
#include "base/json.h"
#include "model/checkpoint/safetensors.h"
#include "model/weights.h"

namespace chorale {
namespace {

using Vector = std::vector<double>;

double Dot(const double* a, const double* b, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

class PlainModel {
 public:
  explicit PlainModel(const std::string& folder) {
    const auto json = ParseJsonFile(folder + "/config.json");
    CHECK(json.ok()) << json.status().message();
    config_ = *json;
    const auto checkpoint = Checkpoint::Open(folder);
    CHECK(checkpoint.ok()) << checkpoint.status().message();
    for (const Tensor* tensor : (*checkpoint)->tensors()) {
      const std::vector<float> values = ToFloats(*tensor);
      tensors_[tensor->name] = Vector(values.begin(), values.end());
    }
    hidden_ = Int("hidden_size");
    heads_ = Int("num_attention_heads");
    kv_heads_ = Int("num_key_value_heads");
    head_dim_ = Int("head_dim");
  }

  std::vector<Vector> Run(std::span<const TokenId> tokens) {
    const int layers = Int("num_hidden_layers");
    std::vector<Vector> x;
    for (TokenId token : tokens) {
      const Vector& table = tensors_.at("model.embed_tokens.weight");
      x.emplace_back(table.begin() + token * hidden_, table.begin() + (token + 1) * hidden_);
    }
    for (int layer = 0; layer < layers; ++layer) {
      prefix_ = "model.layers." + std::to_string(layer) + ".";
      Attend(layer, x);
      FeedForward(x);
    }
    prefix_ = "";
    const bool tied = config_.value("tie_word_embeddings", false);
    std::vector<Vector> logits;
    for (const Vector& row : x) {
      logits.push_back(Linear(tied ? "model.embed_tokens" : "lm_head", Norm("model.norm", row)));
    }
    return logits;
  }

 private:
  int Int(const char* field) const { return config_.at(field).get<int>(); }
  const Vector& Weight(const std::string& name) const {
    return tensors_.at(prefix_ + name + ".weight");
  }

  Vector Linear(const std::string& name, const Vector& x) const {
    const Vector& w = Weight(name);
    Vector y(w.size() / x.size());
    for (size_t i = 0; i < y.size(); ++i) y[i] = Dot(&w[i * x.size()], x.data(), x.size());
    const auto bias = tensors_.find(prefix_ + name + ".bias");
    for (size_t i = 0; bias != tensors_.end() && i < y.size(); ++i) y[i] += bias->second[i];
    return y;
  }

  // Of `x`, or of each of its parts that is as long as the weight.
  Vector Norm(const std::string& name, Vector x) const {
    const Vector& w = Weight(name);
    for (size_t at = 0; at < x.size(); at += w.size()) {
      const double scale =
          1 / std::sqrt(Dot(&x[at], &x[at], w.size()) / static_cast<double>(w.size()) +
                        config_.at("rms_norm_eps").get<double>());
      for (size_t i = 0; i < w.size(); ++i) x[at + i] *= scale * w[i];
    }
    return x;
  }

  // Radians of each pair of dimensions at `position` of `tokens`, and what scales cos and sin.
  Vector Angles(int position, int tokens, double& amplitude) const {
    const Json rope = config_.contains("rope_scaling") ? config_["rope_scaling"] : Json::object();
    const std::string type = rope.value("rope_type", "default");
    double theta = config_.value("rope_theta", 10000.0);
    const double dim = head_dim_;
    amplitude = 1;
    Vector divisors(head_dim_ / 2, 1.0);
    if (type == "linear") {
      std::fill(divisors.begin(), divisors.end(), rope["factor"].get<double>());
    } else if (type == "dynamic") {
      const double original = Int("max_position_embeddings");
      const double seen = std::max(original, position + 1.0);
      const double factor = rope["factor"];
      theta *= std::pow(factor * seen / original - (factor - 1), dim / (dim - 2));
    } else if (type == "longrope") {
      const double original = Int("original_max_position_embeddings");
      const double factor = Int("max_position_embeddings") / original;
      amplitude = std::sqrt(1 + std::log(factor) / std::log(original));
      divisors = rope[tokens > original ? "long_factor" : "short_factor"].get<Vector>();
    } else {
      CHECK(type == "default") << type;
    }
    Vector angles(divisors.size());
    for (size_t i = 0; i < angles.size(); ++i) {
      angles[i] = position / divisors[i] / std::pow(theta, 2 * static_cast<double>(i) / dim);
    }
    return angles;
  }

  void Rotate(Vector& x, int position, int tokens) const {
    double amplitude = 1;
    const Vector angles = Angles(position, tokens, amplitude);
    const size_t half = angles.size();
    for (size_t head = 0; head < x.size(); head += 2 * half) {
      for (size_t i = 0; i < half; ++i) {
        const double a = x[head + i], b = x[head + half + i];
        x[head + i] = amplitude * (a * std::cos(angles[i]) - b * std::sin(angles[i]));
        x[head + half + i] = amplitude * (b * std::cos(angles[i]) + a * std::sin(angles[i]));
      }
    }
  }

  // How far a query of the layer looks back, its own token included.
  int Window(int layer) const {
    const int everything = 1 << 30;
    if (!config_.contains("sliding_window") || config_["sliding_window"].is_null()) {
      return everything;
    }
    bool windowed = config_["architectures"][0] == "MistralForCausalLM" ||
                    (config_.value("use_sliding_window", false) &&
                     layer >= config_.value("max_window_layers", 28));
    if (config_.contains("layer_types")) {
      windowed = config_["layer_types"][layer] == "sliding_attention";
    }
    return windowed ? Int("sliding_window") : everything;
  }

  void Attend(int layer, std::vector<Vector>& x) const {
    const int count = static_cast<int>(x.size());
    const bool qk_norm = tensors_.contains(prefix_ + "self_attn.q_norm.weight");
    std::vector<Vector> q, k, v;
    for (int t = 0; t < count; ++t) {
      const Vector normed = Norm("input_layernorm", x[t]);
      q.push_back(Linear("self_attn.q_proj", normed));
      k.push_back(Linear("self_attn.k_proj", normed));
      v.push_back(Linear("self_attn.v_proj", normed));
      if (qk_norm) {
        q[t] = Norm("self_attn.q_norm", q[t]);
        k[t] = Norm("self_attn.k_norm", k[t]);
      }
      Rotate(q[t], t, count);
      Rotate(k[t], t, count);
    }
    for (int t = 0; t < count; ++t) {
      Vector mixed(heads_ * head_dim_);
      for (int head = 0; head < heads_; ++head) {
        const int kv = head / (heads_ / kv_heads_) * head_dim_;
        double sum = 0;
        Vector values(head_dim_);
        for (int s = std::max(0, t + 1 - Window(layer)); s <= t; ++s) {
          const double weight = std::exp(Dot(&q[t][head * head_dim_], &k[s][kv], head_dim_) /
                                         std::sqrt(static_cast<double>(head_dim_)));
          sum += weight;
          for (int d = 0; d < head_dim_; ++d) values[d] += weight * v[s][kv + d];
        }
        for (int d = 0; d < head_dim_; ++d) mixed[head * head_dim_ + d] = values[d] / sum;
      }
      const Vector out = Linear("self_attn.o_proj", mixed);
      for (int i = 0; i < hidden_; ++i) x[t][i] += out[i];
    }
  }

  void FeedForward(std::vector<Vector>& x) const {
    for (Vector& row : x) {
      const Vector normed = Norm("post_attention_layernorm", row);
      Vector gate = Linear("mlp.gate_proj", normed);
      const Vector up = Linear("mlp.up_proj", normed);
      for (size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
      const Vector out = Linear("mlp.down_proj", gate);
      for (int i = 0; i < hidden_; ++i) row[i] += out[i];
    }
  }

  Json config_;
  std::map<std::string, Vector> tensors_;
  std::string prefix_;  // of the layer under way
  int hidden_ = 0, heads_ = 0, kv_heads_ = 0, head_dim_ = 0;
};

}  // namespace

std::vector<std::vector<double>> PlainLogits(const std::string& folder,
                                             std::span<const TokenId> tokens) {
  return PlainModel(folder).Run(tokens);
}

}  // namespace chorale
