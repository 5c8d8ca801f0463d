#include "model/adapter/peft_config.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "model/checkpoint/config_fields.h"
#include "model/linears.h"

namespace chorale {
namespace {

constexpr int kRankMax = 4096;
constexpr size_t kPatternsMax = 4096;  // of a field
constexpr double kAlphaMax = 1e6;
constexpr char kBody[] = "model.";

std::string Shown(const OrderedJson& value) {
  return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace).substr(0, 80);
}

bool IsSet(const OrderedJson& json, const char* field) {
  const auto it = json.find(field);
  return it != json.end() && !it->is_null() && *it != false &&
         !((it->is_array() || it->is_object()) && it->empty());
}

// Fields that change results when they are set, and are not known here.
absl::Status RefuseUnknown(const OrderedJson& json) {
  for (const char* field : {"layer_replication", "fan_in_fan_out", "use_qalora",
                            "trainable_token_indices", "target_parameters", "megatron_config",
                            "alora_invocation_tokens", "arrow_config", "use_bdlora"}) {
    if (!IsSet(json, field)) continue;
    return absl::UnimplementedError(
        absl::StrFormat("field '%s': %s is not supported; merge the adapter or train it without",
                        field, Shown(json[field])));
  }
  const std::string type = json.value("peft_type", OrderedJson()).is_string()
                               ? json["peft_type"].get<std::string>()
                               : "";
  if (type != "LORA") {
    return absl::UnimplementedError(
        absl::StrFormat("field 'peft_type': '%s' is not known; expected LORA", type.substr(0, 80)));
  }
  // These take a part of the base's weights into the adapter: alone it means something else.
  const OrderedJson start = json.value("init_lora_weights", OrderedJson(true));
  for (const char* changing : {"pissa", "olora", "corda", "loftq", "lora_ga"}) {
    if (!start.is_string() || !absl::StartsWith(start.get<std::string>(), changing)) continue;
    return absl::UnimplementedError(absl::StrFormat(
        "field 'init_lora_weights': %s changes the base's weights; save the adapter converted to a "
        "plain one (path_initial_model_for_weight_conversion)",
        Shown(start)));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> RankIn(const OrderedJson& value, const std::string& field) {
  if (value.is_number_integer() && value >= 1 && value <= kRankMax) return value.get<int>();
  return absl::InvalidArgumentError(
      absl::StrFormat("field '%s': %s is not within [1, %d]", field, Shown(value), kRankMax));
}

absl::StatusOr<double> AlphaIn(const OrderedJson& value, const std::string& field) {
  if (value.is_number() && std::abs(value.get<double>()) <= kAlphaMax) return value.get<double>();
  return absl::InvalidArgumentError(absl::StrFormat("field '%s': %s is not within [-%g, %g]", field,
                                                    Shown(value), kAlphaMax, kAlphaMax));
}

absl::StatusOr<bool> FlagIn(const OrderedJson& json, const char* field) {
  const OrderedJson value = json.value(field, OrderedJson(false));
  if (value.is_boolean()) return value.get<bool>();
  return absl::InvalidArgumentError(
      absl::StrFormat("field '%s': expected true or false, found %s", field, Shown(value)));
}

absl::StatusOr<NamePattern> PatternIn(const std::string& pattern, const char* field) {
  absl::StatusOr<NamePattern> compiled = NamePattern::Compile(pattern);
  if (compiled.ok()) return compiled;
  return absl::InvalidArgumentError(
      absl::StrFormat("field '%s': %s", field, std::string(compiled.status().message())));
}

// The keys of rank_pattern and alpha_pattern match the end of a name, from a dot on.
template <typename Number, typename Read>
absl::Status ReadPatterns(const OrderedJson& json, const char* field, Read read,
                          std::vector<std::pair<NamePattern, Number>>& out) {
  if (!IsSet(json, field)) return absl::OkStatus();
  if (!json[field].is_object()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field '%s': expected an object, found %s", field, Shown(json[field])));
  }
  if (json[field].size() > kPatternsMax) {
    return absl::InvalidArgumentError(absl::StrFormat("field '%s': %d patterns, more than %d",
                                                      field, json[field].size(), kPatternsMax));
  }
  for (const auto& [key, value] : json[field].items()) {
    ASSIGN_OR_RETURN(NamePattern pattern, PatternIn("(.*\\.)?(" + key + ")", field));
    ASSIGN_OR_RETURN(const Number number, read(value, absl::StrCat(field, ".", key)));
    out.emplace_back(std::move(pattern), number);
  }
  return absl::OkStatus();
}

// A name stands for itself and for what ends with it, from a dot on.
bool IsNamedBy(const std::vector<std::string>& names, std::string_view module) {
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    return module == name || absl::EndsWith(std::string(module), "." + name);
  });
}

// The modules that an adapter may have whole, as the whole model names them.
std::vector<std::string> SavableModules(int layers) {
  std::vector<std::string> modules = {"lm_head", "model.embed_tokens", "model.norm"};
  for (int layer = 0; layer < layers; ++layer) {
    for (int i = 0; i < kLayerNorms; ++i) {
      modules.push_back(ModuleName(layer, static_cast<LayerNorm>(i)));
    }
  }
  return modules;
}

// The others, those that hold modules included.
std::vector<std::string> OtherModules(int layers) {
  std::vector<std::string> modules = {"model", "model.layers", "model.rotary_emb"};
  for (int layer = 0; layer < layers; ++layer) {
    const std::string block = absl::StrCat("model.layers.", layer);
    for (const char* part : {"", ".self_attn", ".mlp", ".mlp.act_fn"}) {
      modules.push_back(block + part);
    }
    for (int i = 0; i < kLinears; ++i) {
      modules.push_back(ModuleName(layer, static_cast<Linear>(i)));
    }
  }
  return modules;
}

// The number of the first pattern in the order of the text that matches, else `fallback`.
template <typename Number>
absl::StatusOr<Number> FirstMatch(const std::vector<std::pair<NamePattern, Number>>& patterns,
                                  const char* field, std::string_view name, Number fallback) {
  for (const auto& [pattern, number] : patterns) {
    const absl::StatusOr<bool> matches = pattern.Matches(name);
    if (!matches.ok()) return Within(absl::StrFormat("field '%s'", field), matches.status());
    if (*matches) return number;
  }
  return fallback;
}

}  // namespace

absl::StatusOr<PeftConfig> PeftConfig::Parse(const OrderedJson& json, int layers, PeftBase base) {
  if (!json.is_object()) return absl::InvalidArgumentError("expected a JSON object");
  RETURN_IF_ERROR(RefuseUnknown(json));
  PeftConfig config;
  config.base_ = base;
  RETURN_IF_ERROR(config.ParseRanks(json));
  if (!IsSet(json, "target_modules")) {
    return absl::InvalidArgumentError(
        "field 'target_modules': expected a list of names, a regular expression or \"all-linear\"");
  }
  config.targets_text_ = Shown(json["target_modules"]);
  ASSIGN_OR_RETURN(config.targets_, ParseSelection(json, "target_modules"));
  if (IsSet(json, "exclude_modules")) {
    ASSIGN_OR_RETURN(config.excluded_, ParseSelection(json, "exclude_modules"));
  }
  RETURN_IF_ERROR(config.ParseLayers(json, layers));
  RETURN_IF_ERROR(config.ParseBiases(json));
  RETURN_IF_ERROR(config.ParseSaved(json, layers));
  return config;
}

absl::StatusOr<PeftConfig::Selection> PeftConfig::ParseSelection(const OrderedJson& json,
                                                                 const char* field) {
  Selection selection;
  selection.field = field;
  const OrderedJson& value = json[field];
  if (value.is_string()) {
    const std::string text = value.get<std::string>();
    selection.all_linear = absl::AsciiStrToLower(text) == "all-linear";
    if (!selection.all_linear) {
      ASSIGN_OR_RETURN(selection.pattern, PatternIn(text, field));
    }
    return selection;
  }
  if (!value.is_array()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field '%s': expected names, found %s", field, Shown(value)));
  }
  for (const OrderedJson& name : value) {
    if (!name.is_string() || name.get_ref<const std::string&>().empty()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("field '%s': expected names, found %s", field, Shown(value)));
    }
    selection.names.push_back(name.get<std::string>());
  }
  return selection;
}

absl::Status PeftConfig::ParseRanks(const OrderedJson& json) {
  ASSIGN_OR_RETURN(rank_, RankIn(json.value("r", OrderedJson()), "r"));
  ASSIGN_OR_RETURN(alpha_, AlphaIn(json.value("lora_alpha", OrderedJson()), "lora_alpha"));
  ASSIGN_OR_RETURN(rslora_, FlagIn(json, "use_rslora"));
  ASSIGN_OR_RETURN(dora_, FlagIn(json, "use_dora"));
  ASSIGN_OR_RETURN(ties_weights_, FlagIn(json, "ensure_weight_tying"));
  RETURN_IF_ERROR(ReadPatterns<int>(json, "rank_pattern", &RankIn, ranks_));
  return ReadPatterns<double>(json, "alpha_pattern", &AlphaIn, alphas_);
}

absl::Status PeftConfig::ParseLayers(const OrderedJson& json, int layers) {
  const auto it = json.find("layers_to_transform");
  const bool given = it != json.end() && !it->is_null() && !(it->is_array() && it->empty());
  if (!given) return absl::OkStatus();
  if (targets_.pattern || targets_.all_linear) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'layers_to_transform': target_modules is %s, with which PEFT allows no layers; list "
        "the names, or put the layers into a regular expression",
        targets_.pattern ? "a regular expression" : "all-linear"));
  }
  RETURN_IF_ERROR(ParseLayerPatterns(json));
  layers_.emplace();
  for (const OrderedJson& layer : it->is_array() ? *it : OrderedJson::array({*it})) {
    if (!layer.is_number_integer() || layer < 0 || layer >= layers) {
      return absl::InvalidArgumentError(
          absl::StrFormat("field 'layers_to_transform': %s is not a layer of this model (0 to %d)",
                          Shown(layer), layers - 1));
    }
    layers_->insert(layer.get<int>());
  }
  return absl::OkStatus();
}

// What stands before a layer's number; without a pattern anything may. PEFT puts a pattern as it is
// between dots, so that a name must begin with something else: in a body alone no layer is found.
absl::Status PeftConfig::ParseLayerPatterns(const OrderedJson& json) {
  const OrderedJson value = json.value("layers_pattern", OrderedJson());
  OrderedJson patterns = value.is_array() ? value : OrderedJson::array({value});
  if (value.is_null() || value.empty() || value == "") patterns = OrderedJson::array({"[^.]*"});
  if (patterns.size() > kPatternsMax) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'layers_pattern': %d patterns, more than %d", patterns.size(), kPatternsMax));
  }
  for (const OrderedJson& text : patterns) {
    if (!text.is_string()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'layers_pattern': expected a pattern or a list of them, found %s", Shown(value)));
    }
    ASSIGN_OR_RETURN(
        NamePattern pattern,
        PatternIn(".*\\." + text.get<std::string>() + "\\.(\\d+)\\..*", "layers_pattern"));
    layer_patterns_.push_back(std::move(pattern));
  }
  return absl::OkStatus();
}

absl::Status PeftConfig::ParseBiases(const OrderedJson& json) {
  ASSIGN_OR_RETURN(update_biases_, FlagIn(json, "lora_bias"));
  if (update_biases_ && dora_) {
    return absl::InvalidArgumentError(
        "field 'lora_bias': true beside use_dora, which PEFT does not allow either; train it "
        "without one of them");
  }
  const OrderedJson bias = json.value("bias", OrderedJson("none"));
  if (bias == "none") return absl::OkStatus();
  if (bias != "lora_only" && bias != "all") {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'bias': %s; expected \"none\", \"lora_only\" or \"all\"", Shown(bias)));
  }
  biases_ = bias == "all" ? PeftBiases::kAll : PeftBiases::kOfTargets;
  return absl::OkStatus();
}

absl::Status PeftConfig::ParseSaved(const OrderedJson& json, int layers) {
  if (!IsSet(json, "modules_to_save")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Selection saved, ParseSelection(json, "modules_to_save"));
  const OrderedJson& value = json["modules_to_save"];
  if (!value.is_array()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'modules_to_save': expected a list, found %s", Shown(value)));
  }
  if (value.size() > kPatternsMax) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'modules_to_save': %d names, more than %d", value.size(), kPatternsMax));
  }
  const std::vector<std::string> known = SavableModules(layers);
  const std::vector<std::string> unknown = OtherModules(layers);
  for (const std::string& name : saved.names) {
    const auto is_named = [&](const std::string& module) { return NameOf(module).ends_with(name); };
    const auto other = std::ranges::find_if(unknown, is_named);
    if (other == unknown.end() && std::ranges::any_of(known, is_named)) continue;
    return absl::UnimplementedError(absl::StrFormat(
        "field 'modules_to_save': '%s' is not supported%s; lm_head, embed_tokens and norms are",
        name.substr(0, 80),
        other == unknown.end() ? "" : absl::StrFormat(", it means '%s' too", *other)));
  }
  saved_ = saved.names;
  return absl::OkStatus();
}

std::string_view PeftConfig::NameOf(std::string_view module) const {
  if (base_ == PeftBase::kBody && module.starts_with(kBody)) {
    module.remove_prefix(std::size(kBody) - 1);
  }
  return module;
}

absl::StatusOr<bool> PeftConfig::IsChosenLayer(const std::string& module) const {
  if (!layers_) return true;
  for (const NamePattern& pattern : layer_patterns_) {
    const absl::StatusOr<bool> matches = pattern.Matches(NameOf(module));
    if (!matches.ok()) return Within("field 'layers_pattern'", matches.status());
    if (!*matches) continue;
    // A module's name has one number: that of its layer.
    const std::vector<std::string> parts = absl::StrSplit(module, '.');
    for (const std::string& part : parts) {
      int layer = 0;
      if (absl::SimpleAtoi(part, &layer)) return layers_->contains(layer);
    }
  }
  return false;
}

absl::StatusOr<bool> PeftConfig::IsIn(const Selection& selection, std::string_view name) const {
  if (!selection.pattern) return IsNamedBy(selection.names, name);
  const absl::StatusOr<bool> matches = selection.pattern->Matches(name);
  if (matches.ok()) return matches;
  return Within(absl::StrFormat("field '%s'", selection.field), matches.status());
}

absl::StatusOr<bool> PeftConfig::Targets(const std::string& module, bool is_linear) const {
  const std::string_view name = NameOf(module);
  ASSIGN_OR_RETURN(const bool excluded, IsIn(excluded_, name));
  if (excluded || Saves(module)) return false;
  if (targets_.all_linear) return is_linear;
  ASSIGN_OR_RETURN(const bool targeted, IsIn(targets_, name));
  if (!targeted) return false;
  // A name that is written out whole counts whatever the layers.
  const Names& names = targets_.names;
  if (std::find(names.begin(), names.end(), name) != names.end()) return true;
  return IsChosenLayer(module);
}

// Unlike a target, a name need not begin where a part of the module's name does: "norm" means every
// norm.
bool PeftConfig::Saves(const std::string& module) const {
  const std::string_view name = NameOf(module);
  return std::ranges::any_of(saved_, [&](const std::string& end) { return name.ends_with(end); });
}

absl::StatusOr<int> PeftConfig::RankOf(const std::string& module) const {
  return FirstMatch(ranks_, "rank_pattern", NameOf(module), rank_);
}

absl::StatusOr<double> PeftConfig::ScaleOf(const std::string& module) const {
  // LoRA (arXiv 2106.09685), section 4.1; rank-stabilised (arXiv 2312.03732), section 3.
  ASSIGN_OR_RETURN(const double rank, RankOf(module));
  ASSIGN_OR_RETURN(const double alpha,
                   FirstMatch(alphas_, "alpha_pattern", NameOf(module), alpha_));
  return alpha / (rslora_ ? std::sqrt(rank) : rank);
}

}  // namespace chorale
