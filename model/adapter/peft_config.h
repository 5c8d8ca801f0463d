// What an adapter_config.json of the PEFT library asks for: which modules have updates, of which
// rank and scale, and which are saved whole.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "base/json.h"
#include "model/adapter/name_pattern.h"

namespace chorale {

// What an adapter was made for, which its keys tell: the whole model ("model.layers.0...",
// "lm_head") or its body alone ("layers.0...", no lm_head).
enum class PeftBase { kWhole, kBody };

// Whose biases were trained in place of the base's: those of the modules that have updates, or all.
enum class PeftBiases { kNone, kOfTargets, kAll };

// Modules are asked for by their names in the whole model: "model.layers.0.self_attn.q_proj",
// "lm_head", "model.embed_tokens". They are matched by the names that they have in the model that
// the adapter was made for, as PEFT did.
class PeftConfig {
 public:
  // InvalidArgument names the field, its value and what is allowed; Unimplemented a feature that
  // changes results and is not known: layer replication and the like, modules saved whole that are
  // not norms, lm_head or embed_tokens, and starts that change the base's weights. Patterns are
  // tried in the order of the text.
  static absl::StatusOr<PeftConfig> Parse(const OrderedJson& json, int layers, PeftBase base);

  // Whether the module has an update. `is_linear`: all-linear means it. InvalidArgument, here and
  // below, names a field whose pattern cannot be decided (name_pattern.h).
  absl::StatusOr<bool> Targets(const std::string& module, bool is_linear) const;
  // Whether the module is saved whole (modules_to_save): its name ends with one that is listed.
  bool Saves(const std::string& module) const;
  absl::StatusOr<int> RankOf(const std::string& module) const;
  // alpha / r, or alpha / sqrt(r) with rslora.
  absl::StatusOr<double> ScaleOf(const std::string& module) const;
  // Whether updates of linear layers and of lm_head have magnitudes (DoRA).
  bool has_magnitudes() const { return dora_; }
  // Whether updates have biases of their own (lora_bias), scaled as the updates are.
  bool has_update_biases() const { return update_biases_; }
  PeftBiases biases() const { return biases_; }
  // A whole embedding stands for a tied output matrix too.
  bool ties_weights() const { return ties_weights_; }
  // The field target_modules as it is, for errors.
  const std::string& targets_text() const { return targets_text_; }

 private:
  using Names = std::vector<std::string>;
  struct Selection {
    const char* field = "";
    bool all_linear = false;
    Names names;
    std::optional<NamePattern> pattern;
  };
  template <typename Number>
  using Patterns = std::vector<std::pair<NamePattern, Number>>;

  static absl::StatusOr<Selection> ParseSelection(const OrderedJson& json, const char* field);
  absl::Status ParseRanks(const OrderedJson& json);
  absl::Status ParseLayers(const OrderedJson& json, int layers);
  absl::Status ParseLayerPatterns(const OrderedJson& json);
  absl::Status ParseBiases(const OrderedJson& json);
  absl::Status ParseSaved(const OrderedJson& json, int layers);
  std::string_view NameOf(std::string_view module) const;
  absl::StatusOr<bool> IsIn(const Selection& selection, std::string_view name) const;
  absl::StatusOr<bool> IsChosenLayer(const std::string& module) const;

  PeftBase base_ = PeftBase::kWhole;
  Selection targets_;
  Selection excluded_;
  Names saved_;
  std::optional<std::set<int>> layers_;      // unset: all
  std::vector<NamePattern> layer_patterns_;  // of the names that have a layer's number
  int rank_ = 0;
  double alpha_ = 0;
  Patterns<int> ranks_;
  Patterns<double> alphas_;
  bool rslora_ = false;
  bool dora_ = false;
  bool update_biases_ = false;
  PeftBiases biases_ = PeftBiases::kNone;
  bool ties_weights_ = false;
  std::string targets_text_;
};

}  // namespace chorale
