#include "model/peft_config.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

constexpr int kRankMax = 4096;
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
  for (const char* field :
       {"use_dora", "layer_replication", "fan_in_fan_out", "lora_bias", "use_qalora",
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
  if (const OrderedJson bias = json.value("bias", OrderedJson("none")); bias != "none") {
    return absl::UnimplementedError(
        absl::StrFormat("field 'bias': %s is not supported; expected none", Shown(bias)));
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

// The module as it is named in the whole model, and in the body alone.
template <typename Predicate>
bool EitherName(std::string_view module, Predicate predicate) {
  if (predicate(module)) return true;
  return module.starts_with(kBody) && predicate(module.substr(std::size(kBody) - 1));
}

}  // namespace

absl::StatusOr<PeftConfig> PeftConfig::Parse(const OrderedJson& json, int layers) {
  if (!json.is_object()) return absl::InvalidArgumentError("expected a JSON object");
  RETURN_IF_ERROR(RefuseUnknown(json));
  PeftConfig config;
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
  RETURN_IF_ERROR(config.ParseSaved(json));
  return config;
}

absl::StatusOr<PeftConfig::Selection> PeftConfig::ParseSelection(const OrderedJson& json,
                                                                 const char* field) {
  Selection selection;
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
  ASSIGN_OR_RETURN(ties_weights_, FlagIn(json, "ensure_weight_tying"));
  RETURN_IF_ERROR(ReadPatterns<int>(json, "rank_pattern", &RankIn, ranks_));
  return ReadPatterns<double>(json, "alpha_pattern", &AlphaIn, alphas_);
}

absl::Status PeftConfig::ParseLayers(const OrderedJson& json, int layers) {
  const auto it = json.find("layers_to_transform");
  const bool given = it != json.end() && !it->is_null() && !(it->is_array() && it->empty());
  if (!given) return absl::OkStatus();
  if (targets_.pattern) {
    return absl::InvalidArgumentError(
        "field 'layers_to_transform': target_modules is a regular expression; put the layers into "
        "it");
  }
  if (IsSet(json, "layers_pattern") && json["layers_pattern"] != "layers" &&
      json["layers_pattern"] != OrderedJson::array({"layers"})) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'layers_pattern': %s; the layers of this model are called layers",
                        Shown(json["layers_pattern"])));
  }
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

absl::Status PeftConfig::ParseSaved(const OrderedJson& json) {
  if (!IsSet(json, "modules_to_save")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Selection saved, ParseSelection(json, "modules_to_save"));
  if (!json["modules_to_save"].is_array()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'modules_to_save': expected a list, found %s", Shown(json["modules_to_save"])));
  }
  for (const std::string& name : saved.names) {
    if (name == "lm_head" || name == "embed_tokens" || name == "model.embed_tokens") continue;
    return absl::UnimplementedError(absl::StrFormat(
        "field 'modules_to_save': '%s' is not supported; lm_head and embed_tokens are",
        name.substr(0, 80)));
  }
  saved_ = saved.names;
  return absl::OkStatus();
}

bool PeftConfig::IsChosenLayer(std::string_view module) const {
  if (!layers_) return true;
  const std::vector<std::string> parts = absl::StrSplit(std::string(module), '.');
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    int layer = 0;
    if (parts[i] == "layers" && absl::SimpleAtoi(parts[i + 1], &layer)) {
      return layers_->contains(layer);
    }
  }
  return false;
}

bool PeftConfig::Targets(const std::string& module, bool is_linear) const {
  const auto in = [&](const Selection& selection) {
    return EitherName(module, [&](std::string_view name) {
      return selection.pattern ? selection.pattern->Matches(name)
                               : IsNamedBy(selection.names, name);
    });
  };
  if (in(excluded_) || Saves(module)) return false;
  if (targets_.pattern) return in(targets_);
  if (targets_.all_linear) return is_linear && IsChosenLayer(module);
  // A name that is written out whole counts whatever the layers.
  const bool whole = EitherName(module, [&](std::string_view name) {
    return std::find(targets_.names.begin(), targets_.names.end(), name) != targets_.names.end();
  });
  return whole || (in(targets_) && IsChosenLayer(module));
}

bool PeftConfig::Saves(const std::string& module) const { return IsNamedBy(saved_, module); }

int PeftConfig::RankOf(const std::string& module) const {
  for (const auto& [pattern, rank] : ranks_) {
    if (EitherName(module, [&](std::string_view name) { return pattern.Matches(name); })) {
      return rank;
    }
  }
  return rank_;
}

double PeftConfig::AlphaOf(const std::string& module) const {
  for (const auto& [pattern, alpha] : alphas_) {
    if (EitherName(module, [&](std::string_view name) { return pattern.Matches(name); })) {
      return alpha;
    }
  }
  return alpha_;
}

double PeftConfig::ScaleOf(const std::string& module) const {
  // LoRA (arXiv 2106.09685), section 4.1; rank-stabilised (arXiv 2312.03732), section 3.
  const double rank = RankOf(module);
  return AlphaOf(module) / (rslora_ ? std::sqrt(rank) : rank);
}

}  // namespace chorale
