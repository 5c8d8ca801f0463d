#include "model/checkpoint/config_rope.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "model/checkpoint/config_fields.h"

namespace chorale {
namespace {

constexpr double kFactorMax = 1e6;
constexpr char kOriginal[] = "original_max_position_embeddings";

// mscale of the YaRN paper's temperature, as DeepSeek's checkpoints write it.
double YarnScale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

absl::Status ReadFactor(const Json& json, RopeScaling& rope) {
  if (!JsonHas(json, "factor")) return absl::InvalidArgumentError("field 'factor' is missing");
  ASSIGN_OR_RETURN(rope.factor, NumberWithin(json, "factor", 1, 1, kFactorMax));
  return absl::OkStatus();
}

// The context becomes `factor` times as long.
void Stretch(double factor, int original, ModelConfig& config) {
  const double stretched =
      std::clamp<double>(factor * original, config.positions_max, kPositionsMax);
  if (stretched > config.positions_max) {
    config.context_reason = absl::StrFormat("rope %s, factor %g of %d",
                                            NameOf(config.rope_scaling.kind), factor, original);
  }
  config.positions_max = static_cast<int>(stretched);
}

absl::Status ParseYarn(const Json& json, ModelConfig& config) {
  RopeScaling& rope = config.rope_scaling;
  ASSIGN_OR_RETURN(rope.original_positions,
                   IntWithin(json, kOriginal, config.positions_max, 1, kPositionsMax));
  const double ratio =
      std::max(1.0, static_cast<double>(config.positions_max) / rope.original_positions);
  ASSIGN_OR_RETURN(rope.factor, NumberWithin(json, "factor", ratio, 1, kFactorMax));
  ASSIGN_OR_RETURN(rope.beta_fast, NumberWithin(json, "beta_fast", 32, 1e-3, 1e6));
  ASSIGN_OR_RETURN(rope.beta_slow, NumberWithin(json, "beta_slow", 1, 1e-3, rope.beta_fast));
  ASSIGN_OR_RETURN(const double mscale, NumberWithin(json, "mscale", 0, 0, 100));
  ASSIGN_OR_RETURN(const double mscale_all, NumberWithin(json, "mscale_all_dim", 0, 0, 100));
  const double derived = mscale > 0 && mscale_all > 0
                             ? YarnScale(rope.factor, mscale) / YarnScale(rope.factor, mscale_all)
                             : YarnScale(rope.factor, 1);
  ASSIGN_OR_RETURN(rope.attention_factor,
                   NumberWithin(json, "attention_factor", derived, 1e-3, 1e3));
  ASSIGN_OR_RETURN(const bool truncate, JsonBool(json, "truncate", true));
  if (!truncate) {
    return absl::UnimplementedError("field 'truncate': false is not known for yarn; true is");
  }
  Stretch(rope.factor, rope.original_positions, config);
  return absl::OkStatus();
}

absl::Status ParseLlama3(const Json& json, RopeScaling& rope) {
  RETURN_IF_ERROR(ReadFactor(json, rope));
  ASSIGN_OR_RETURN(rope.low_freq_factor, NumberWithin(json, "low_freq_factor", 1, 1e-3, 1e6));
  ASSIGN_OR_RETURN(rope.high_freq_factor, NumberWithin(json, "high_freq_factor", 4, 1e-3, 1e6));
  ASSIGN_OR_RETURN(rope.original_positions, IntWithin(json, kOriginal, 0, 1, kPositionsMax));
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'high_freq_factor': %g is not above low_freq_factor = %g",
                        rope.high_freq_factor, rope.low_freq_factor));
  }
  return absl::OkStatus();
}

// The original context of dynamic scaling is what max_position_embeddings says.
absl::Status ParseDynamic(const Json& json, ModelConfig& config) {
  RopeScaling& rope = config.rope_scaling;
  RETURN_IF_ERROR(ReadFactor(json, rope));
  ASSIGN_OR_RETURN(const int original,
                   IntWithin(json, kOriginal, config.positions_max, 1, kPositionsMax));
  if (original != config.positions_max) {
    return absl::UnimplementedError(absl::StrFormat(
        "field '%s': %d, but dynamic begins behind max_position_embeddings = %d; make them equal",
        kOriginal, original, config.positions_max));
  }
  rope.original_positions = config.positions_max;
  Stretch(rope.factor, rope.original_positions, config);
  return absl::OkStatus();
}

// One divisor for each pair of dimensions.
absl::StatusOr<std::vector<double>> ReadDivisors(const Json& json, std::string_view field,
                                                 int count) {
  const auto it = json.find(field);
  if (it == json.end() || !it->is_array() || static_cast<int>(it->size()) != count) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field '%s': expected a list of %d numbers, half of head_dim, found %s",
                        field, count, it == json.end() ? "none" : JsonExcerpt(*it)));
  }
  std::vector<double> divisors;
  for (const Json& value : *it) {
    if (!value.is_number() || !(value.get<double>() > 1e-6 && value.get<double>() < kFactorMax)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field '%s': %s is not a number within (1e-6, 1e6)", field, JsonExcerpt(value)));
    }
    divisors.push_back(value.get<double>());
  }
  return divisors;
}

// `config_json` may hold the original context in place of the rope's own object. Without either,
// max_position_embeddings is the original and `factor` makes it longer.
absl::Status ParseLongRope(const Json& json, const Json& config_json, ModelConfig& config) {
  RopeScaling& rope = config.rope_scaling;
  ASSIGN_OR_RETURN(rope.short_divisors, ReadDivisors(json, "short_factor", config.head_dim / 2));
  ASSIGN_OR_RETURN(rope.long_divisors, ReadDivisors(json, "long_factor", config.head_dim / 2));
  const Json& holder = JsonHas(json, kOriginal) ? json : config_json;
  if (JsonHas(holder, kOriginal)) {
    ASSIGN_OR_RETURN(rope.original_positions, IntWithin(holder, kOriginal, 0, 1, kPositionsMax));
    const double ratio = static_cast<double>(config.positions_max) / rope.original_positions;
    ASSIGN_OR_RETURN(rope.factor,
                     NumberWithin(json, "factor", std::max(ratio, 1.0), 1, kFactorMax));
  } else {
    RETURN_IF_ERROR(ReadFactor(json, rope));
    rope.original_positions = config.positions_max;
    Stretch(rope.factor, rope.original_positions, config);
  }
  const double derived =
      rope.factor <= 1 || rope.original_positions == 1
          ? 1
          : std::sqrt(1 + std::log(rope.factor) / std::log(rope.original_positions));
  ASSIGN_OR_RETURN(rope.attention_factor,
                   NumberWithin(json, "attention_factor", derived, 1e-3, 1e3));
  return absl::OkStatus();
}

// What each kind reads of its object, besides kReadByAll. A field of another kind is an error: the
// reference passes over it, and its author meant something.
struct FieldsOfKind {
  RopeScaling::Kind kind;
  std::vector<const char*> fields;
};

const std::vector<FieldsOfKind>& KnownKinds() {
  using Kind = RopeScaling::Kind;
  static const std::vector<FieldsOfKind> kKinds = {
      {Kind::kNone, {kOriginal}},
      {Kind::kLinear, {"factor", kOriginal}},
      {Kind::kDynamic, {"factor", kOriginal}},
      {Kind::kLlama3, {"factor", "low_freq_factor", "high_freq_factor", kOriginal}},
      {Kind::kYarn,
       {"factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor",
        "truncate", kOriginal}},
      {Kind::kLongRope, {"factor", "short_factor", "long_factor", "attention_factor", kOriginal}},
  };
  return kKinds;
}

// Of any kind: `finetuned` tells how the model was made, and the sections of mrope turn text, whose
// three positions are one, as no sections would.
constexpr const char* kReadByAll[] = {
    "type",      "rope_type",     "rope_theta",       "partial_rotary_factor",
    "finetuned", "mrope_section", "mrope_interleaved"};
// Where 1 asks for nothing.
constexpr const char* kNeutralAtOne[] = {"factor", "attention_factor", "attn_factor"};

bool IsOneOf(std::string_view name, std::span<const char* const> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

absl::Status RefuseUnreadFields(const Json& json, const FieldsOfKind& known) {
  for (const auto& [name, value] : json.items()) {
    if (value.is_null() || IsOneOf(name, kReadByAll) || IsOneOf(name, known.fields)) continue;
    if (IsOneOf(name, kNeutralAtOne) && value == 1) continue;
    return absl::UnimplementedError(absl::StrFormat(
        "field '%s': %s is not known for rope_type %s, which has %s; remove or rename it",
        name.substr(0, 80), JsonExcerpt(value), NameOf(known.kind),
        known.kind == RopeScaling::Kind::kNone ? "no settings"
                                               : absl::StrJoin(known.fields, ", ")));
  }
  return absl::OkStatus();
}

// `rope_type`, in older files `type`; an object with neither is plain, and says no more than a
// base.
absl::StatusOr<std::string> TypeOf(const Json& json) {
  ASSIGN_OR_RETURN(const std::string legacy, JsonString(json, "type", ""));
  ASSIGN_OR_RETURN(const std::string name, JsonString(json, "rope_type", legacy));
  if (!legacy.empty() && legacy != name) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field 'type': '%s', but rope_type is '%s'; say which holds",
                        legacy.substr(0, 80), name.substr(0, 80)));
  }
  if (!name.empty()) return name == "none" ? NameOf(RopeScaling::Kind::kNone) : name;
  if (const absl::Status status = RefuseUnreadFields(json, KnownKinds().front()); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'rope_type' is missing beside %s; set it, or remove the others", JsonExcerpt(json)));
  }
  return NameOf(RopeScaling::Kind::kNone);
}

absl::Status ParseScaling(const Json& json, const Json& config_json, ModelConfig& config) {
  using Kind = RopeScaling::Kind;
  ASSIGN_OR_RETURN(const std::string name, TypeOf(json));
  RopeScaling& rope = config.rope_scaling;
  std::vector<const char*> names;
  for (const FieldsOfKind& known : KnownKinds()) {
    names.push_back(NameOf(known.kind));
    if (name != names.back()) continue;
    RETURN_IF_ERROR(RefuseUnreadFields(json, known));
    rope.kind = known.kind;
    switch (known.kind) {
      case Kind::kNone:
        return absl::OkStatus();
      case Kind::kLinear:
        return ReadFactor(json, rope);
      case Kind::kDynamic:
        return ParseDynamic(json, config);
      case Kind::kLlama3:
        return ParseLlama3(json, rope);
      case Kind::kYarn:
        return ParseYarn(json, config);
      case Kind::kLongRope:
        return ParseLongRope(json, config_json, config);
    }
  }
  return absl::UnimplementedError(
      absl::StrFormat("field 'rope_type': '%s' is not known; known are %s", name.substr(0, 80),
                      absl::StrJoin(names, ", ")));
}

absl::Status ParseRopeObject(const Json& rope, const Json& config_json, ModelConfig& config) {
  RETURN_IF_ERROR(ParseScaling(rope, config_json, config));
  ASSIGN_OR_RETURN(config.rope_theta,
                   NumberWithin(rope, "rope_theta", config.rope_theta, 1.001, 1e12));
  ASSIGN_OR_RETURN(const double share, JsonNumber(rope, "partial_rotary_factor", 1));
  if (share == 1) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrFormat("field 'partial_rotary_factor': %g is not known; 1 is", share));
}

// The field, where it has a rope's settings; null otherwise.
absl::StatusOr<const Json*> RopeObjectOf(const Json& json, const char* field) {
  if (!JsonHas(json, field)) return nullptr;
  const Json& rope = json[field];
  if (!rope.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("field '%s': expected an object, found %s", field, JsonExcerpt(rope)));
  }
  for (const auto& [name, value] : rope.items()) {
    if (!value.is_object()) continue;
    return absl::UnimplementedError(absl::StrFormat(
        "field '%s.%s': settings of their own per layer type are not known", field, name));
  }
  return rope.empty() ? nullptr : &rope;
}

}  // namespace

const char* NameOf(RopeScaling::Kind kind) {
  switch (kind) {
    case RopeScaling::Kind::kNone:
      return "default";
    case RopeScaling::Kind::kLinear:
      return "linear";
    case RopeScaling::Kind::kDynamic:
      return "dynamic";
    case RopeScaling::Kind::kLlama3:
      return "llama3";
    case RopeScaling::Kind::kYarn:
      return "yarn";
    case RopeScaling::Kind::kLongRope:
      return "longrope";
  }
  return "unknown";
}

absl::Status ParseRope(const Json& json, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.rope_theta, NumberWithin(json, "rope_theta", 10000, 1.001, 1e12));
  std::optional<ModelConfig> decided;
  for (const char* field : {"rope_parameters", "rope_scaling"}) {
    ASSIGN_OR_RETURN(const Json* rope, RopeObjectOf(json, field));
    if (rope == nullptr) continue;
    ModelConfig own = config;  // as the file has it: each object stretches that
    if (decided) own.rope_theta = decided->rope_theta;
    RETURN_IF_ERROR(Within(absl::StrFormat("in '%s'", field), ParseRopeObject(*rope, json, own)));
    if (decided &&
        (own.rope_scaling != decided->rope_scaling || own.rope_theta != decided->rope_theta ||
         own.positions_max != decided->positions_max)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'rope_scaling': %s, but rope_parameters is %s; remove the one that "
          "does not hold",
          JsonExcerpt(*rope), JsonExcerpt(json["rope_parameters"])));
    }
    if (!decided) decided = std::move(own);
  }
  if (decided) config = *std::move(decided);
  return absl::OkStatus();
}

}  // namespace chorale
