#include "model/checkpoint/checkpoint_settings.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "model/checkpoint/config_fields.h"

namespace chorale {
namespace {

namespace fs = std::filesystem;

// A top_p that holds one token, the likeliest: its weight is above this in any vocabulary.
constexpr double kNucleusMin = 1e-9;
constexpr int64_t kTemplateBytesMax = 4 << 20;
constexpr char kDefaultTemplate[] = "default";
constexpr const char* kSpecialTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                          "pad_token", "cls_token", "mask_token"};

bool Exists(const std::string& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

// The object in a file; empty when there is no file.
absl::StatusOr<Json> ObjectOf(const std::string& path) {
  ASSIGN_OR_RETURN(std::optional<Json> json, ObjectIn(path));
  return json ? *std::move(json) : Json::object();
}

// A token is a string, or an object whose `content` is one.
absl::Status TakeToken(const Json& json, const std::string& field, TextSettings& settings) {
  if (settings.special_tokens.contains(field) || !JsonHas(json, field)) return absl::OkStatus();
  const Json& value = json[field];
  const bool object = value.is_object();
  const absl::StatusOr<std::string> text =
      object ? JsonString(value, "content") : JsonString(json, field);
  if (!text.ok()) {
    return object ? Within(absl::StrCat("in '", field, "'"), text.status()) : text.status();
  }
  settings.special_tokens[field] = *text;
  return absl::OkStatus();
}

absl::Status TakeTokens(const Json& json, TextSettings& settings) {
  for (const char* field : kSpecialTokens) RETURN_IF_ERROR(TakeToken(json, field, settings));
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadTemplateFile(const std::string& path) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error) return absl::UnavailableError(absl::StrCat(path, ": ", error.message()));
  if (static_cast<int64_t>(size) > kTemplateBytesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", size, " bytes, more than the limit of ", kTemplateBytesMax));
  }
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  if (size > 0 && !(text << in.rdbuf())) {
    return absl::UnavailableError(absl::StrCat(path, ": cannot be read"));
  }
  return text.str();
}

// The field chat_template: a text, or a list of {name, template}.
absl::Status TakeTemplates(const Json& json, TextSettings& settings) {
  if (!JsonHas(json, "chat_template")) return absl::OkStatus();
  const Json& templates = json["chat_template"];
  if (!templates.is_array()) {
    ASSIGN_OR_RETURN(settings.chat_templates[kDefaultTemplate], JsonString(json, "chat_template"));
    return absl::OkStatus();
  }
  for (const Json& named : templates) {
    if (!named.is_object()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'chat_template': expected a text, or a list of {\"name\", \"template\"}, found %s",
          JsonExcerpt(named)));
    }
    ASSIGN_OR_RETURN(const std::string name, JsonString(named, "name"));
    ASSIGN_OR_RETURN(settings.chat_templates[name], JsonString(named, "template"));
  }
  return absl::OkStatus();
}

// Files win over the field of tokenizer_config.json, which wins over a processor's file.
absl::Status TakeTemplateFiles(const std::string& folder, const Json& config,
                               TextSettings& settings) {
  const std::string main = folder + "/chat_template.jinja";
  const std::string of_processor = folder + "/chat_template.json";
  if (Exists(main)) {
    ASSIGN_OR_RETURN(settings.chat_templates[kDefaultTemplate], ReadTemplateFile(main));
  } else if (JsonHas(config, "chat_template")) {
    RETURN_IF_ERROR(Within(folder + "/tokenizer_config.json", TakeTemplates(config, settings)));
  } else if (Exists(of_processor)) {
    ASSIGN_OR_RETURN(const Json json, ObjectOf(of_processor));
    RETURN_IF_ERROR(Within(of_processor, TakeTemplates(json, settings)));
  }
  std::error_code ignored;
  for (fs::directory_iterator it(fs::path(folder) / kTemplatesFolder, ignored), end;
       !ignored && it != end; it.increment(ignored)) {
    if (it->path().extension() != ".jinja") continue;
    ASSIGN_OR_RETURN(settings.chat_templates[it->path().stem().string()],
                     ReadTemplateFile(it->path().string()));
  }
  return absl::OkStatus();
}

// add_bos_token and add_eos_token count for any class. The classes of Llama's tokenizers have them
// when they are absent: a begin token, no end token, whatever the post_processor says.
absl::Status TakeAddedTokens(const Json& config, TextSettings& settings) {
  ASSIGN_OR_RETURN(const std::string type, JsonString(config, "tokenizer_class", ""));
  const bool llama = absl::StartsWith(type, "LlamaTokenizer") ||
                     absl::StartsWith(type, "CodeLlamaTokenizer") ||
                     absl::StartsWith(type, "GemmaTokenizer");
  if (llama) {
    settings.add_bos_token = true;
    settings.add_eos_token = false;
  }
  for (const auto& [field, to] : {std::pair{"add_bos_token", &settings.add_bos_token},
                                  std::pair{"add_eos_token", &settings.add_eos_token}}) {
    if (!JsonHas(config, field)) continue;
    ASSIGN_OR_RETURN(*to, JsonBool(config, field, false));
  }
  return absl::OkStatus();
}

// ---- generation_config.json ----

// A setting that Chorale does not offer, and the values of it that ask for nothing.
struct Unsupported {
  const char* field;
  const char* neutral;  // a JSON array
};

constexpr Unsupported kUnsupported[] = {
    {"num_beams", "[1]"},
    {"num_beam_groups", "[1]"},
    {"penalty_alpha", "[0]"},
    {"dola_layers", "[]"},
    {"typical_p", "[1]"},
    {"epsilon_cutoff", "[0]"},
    {"eta_cutoff", "[0]"},
    {"top_h", "[]"},
    {"no_repeat_ngram_size", "[0]"},
    {"encoder_repetition_penalty", "[1]"},
    {"encoder_no_repeat_ngram_size", "[0]"},
    {"bad_words_ids", "[[]]"},
    {"force_words_ids", "[[]]"},
    {"constraints", "[[]]"},
    {"sequence_bias", "[{}, []]"},
    {"suppress_tokens", "[[]]"},
    {"begin_suppress_tokens", "[[]]"},
    {"forced_bos_token_id", "[]"},
    {"forced_eos_token_id", "[]"},
    {"forced_decoder_ids", "[[]]"},
    {"exponential_decay_length_penalty", "[]"},
    {"guidance_scale", "[1]"},
    {"watermarking_config", "[]"},
    {"min_length", "[0]"},
    {"min_new_tokens", "[0]"},
    {"max_time", "[]"},
    {"num_return_sequences", "[1]"},
    {"length_penalty", "[1]"},
    {"diversity_penalty", "[0]"},
    {"token_healing", "[false]"},
    {"prompt_lookup_num_tokens", "[]"},
};

std::vector<std::string> NotesOf(const Json& json, const char* file) {
  std::vector<std::string> notes;
  for (const Unsupported& setting : kUnsupported) {
    if (!JsonHas(json, setting.field)) continue;
    bool neutral = false;
    for (const Json& value : Json::parse(setting.neutral)) neutral |= json[setting.field] == value;
    if (neutral) continue;
    notes.push_back(absl::StrFormat("%s: field '%s': %s is not followed", file, setting.field,
                                    JsonExcerpt(json[setting.field])));
  }
  return notes;
}

absl::Status TakeNumber(const Json& json, const char* field, double low, double high,
                        std::optional<double>& out) {
  if (!JsonHas(json, field)) return absl::OkStatus();
  ASSIGN_OR_RETURN(out, NumberWithin(json, field, 0, low, high));
  return absl::OkStatus();
}

absl::Status TakeStops(const Json& json, GenerationDefaults& defaults) {
  if (!JsonHas(json, "stop_strings")) return absl::OkStatus();
  const Json& field = json["stop_strings"];
  for (const Json& stop : field.is_array() ? field : Json::array({field})) {
    if (!stop.is_string() || stop.get_ref<const std::string&>().empty()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'stop_strings': expected texts that are not empty, found %s", JsonExcerpt(field)));
    }
    defaults.stop.push_back(stop.get<std::string>());
  }
  return absl::OkStatus();
}

// A request that carried more, or longer ones, would be refused: they are left out, and told.
void LimitStops(GenerationSettings& settings, const char* file) {
  std::vector<std::string> kept;
  for (const std::string& stop : settings.defaults.stop) {
    if (stop.size() > kStopBytesMax) {
      settings.notes.push_back(absl::StrFormat(
          "%s: field 'stop_strings': a string of %d bytes is left out; the limit is %d", file,
          stop.size(), kStopBytesMax));
    } else {
      kept.push_back(stop);
    }
  }
  if (kept.size() > kStopStringsMax) {
    settings.notes.push_back(absl::StrFormat(
        "%s: field 'stop_strings': %d strings; those behind the first %d are left out", file,
        kept.size(), kStopStringsMax));
    kept.resize(kStopStringsMax);
  }
  settings.defaults.stop = std::move(kept);
}

absl::Status TakeDefaults(const Json& json, GenerationDefaults& defaults) {
  RETURN_IF_ERROR(TakeNumber(json, "temperature", 0, 100, defaults.temperature));
  RETURN_IF_ERROR(TakeNumber(json, "top_p", 0, 1, defaults.top_p));
  RETURN_IF_ERROR(TakeNumber(json, "min_p", 0, 1, defaults.min_p));
  RETURN_IF_ERROR(TakeNumber(json, "repetition_penalty", 1e-6, 100, defaults.repetition_penalty));
  if (JsonHas(json, "top_k")) {
    ASSIGN_OR_RETURN(defaults.top_k, IntWithin(json, "top_k", -1, -1, INT32_MAX));
    if (*defaults.top_k < 0) defaults.top_k = 0;
  }
  if (JsonHas(json, "max_new_tokens")) {
    ASSIGN_OR_RETURN(defaults.max_tokens, IntWithin(json, "max_new_tokens", 1, 1, INT32_MAX));
  }
  // A nucleus of nothing is that of the likeliest token.
  if (defaults.top_p) defaults.top_p = std::max(*defaults.top_p, kNucleusMin);
  // The reference ignores the settings of sampling where it does not sample.
  if (JsonHas(json, "do_sample")) {
    ASSIGN_OR_RETURN(const bool samples, JsonBool(json, "do_sample", true));
    if (!samples) defaults.temperature = 0;
  }
  return TakeStops(json, defaults);
}

}  // namespace

std::string TextSettings::Token(const std::string& name) const {
  const auto found = special_tokens.find(name);
  return found == special_tokens.end() ? "" : found->second;
}

absl::StatusOr<TextSettings> LoadTextSettings(const std::string& folder) {
  TextSettings settings;
  const std::string config_path = folder + "/tokenizer_config.json";
  const std::string map_path = folder + "/special_tokens_map.json";
  ASSIGN_OR_RETURN(const Json config, ObjectOf(config_path));
  ASSIGN_OR_RETURN(const Json map, ObjectOf(map_path));
  // The map is the older of the two: a config that lists its added tokens has taken it in.
  const bool config_first = config.contains("added_tokens_decoder");
  if (config_first) RETURN_IF_ERROR(Within(config_path, TakeTokens(config, settings)));
  RETURN_IF_ERROR(Within(map_path, TakeTokens(map, settings)));
  RETURN_IF_ERROR(Within(config_path, TakeTokens(config, settings)));
  RETURN_IF_ERROR(Within(config_path, TakeAddedTokens(config, settings)));
  RETURN_IF_ERROR(TakeTemplateFiles(folder, config, settings));
  return settings;
}

absl::StatusOr<GenerationSettings> LoadGenerationSettings(const std::string& folder) {
  const char* file = "generation_config.json";
  ASSIGN_OR_RETURN(std::optional<Json> json, ObjectIn(absl::StrCat(folder, "/", file)));
  if (!json) {
    file = "config.json";
    ASSIGN_OR_RETURN(json, ObjectOf(absl::StrCat(folder, "/", file)));
  }
  GenerationSettings settings;
  RETURN_IF_ERROR(Within(absl::StrCat(folder, "/", file), TakeDefaults(*json, settings.defaults)));
  settings.notes = NotesOf(*json, file);
  LimitStops(settings, file);
  return settings;
}

bool HasTextSettings(const std::string& folder) {
  return Exists(folder + "/tokenizer_config.json") || Exists(folder + "/chat_template.jinja");
}

bool HasGenerationSettings(const std::string& folder) {
  return Exists(folder + "/generation_config.json");
}

}  // namespace chorale
