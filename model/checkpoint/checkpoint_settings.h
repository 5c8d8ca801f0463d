// What a checkpoint's files say besides tensors and shape, each value from the files that may hold
// it, in the order of the reference library. docs/CHECKPOINTS.md has the table.
//
// config.json's own part, with the end tokens of config.json and generation_config.json, is read by
// model/checkpoint/config.h.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/generation_defaults.h"

namespace chorale {

// The folder of a checkpoint that holds NAME.jinja for each template besides the main one.
inline constexpr char kTemplatesFolder[] = "additional_chat_templates";

// Of tokenizer_config.json, special_tokens_map.json and the template files.
struct TextSettings {
  // "bos_token", "eos_token", ... and their texts: what templates see. Those that are not set are
  // absent.
  std::map<std::string, std::string> special_tokens;
  // By name; "default" is the one that a model with a single template has.
  std::map<std::string, std::string> chat_templates;
  // Whether the tokenizer puts a begin token before a text and an end token behind it; unset: as
  // tokenizer.json's post_processor says.
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;

  // The text of a token, or "".
  std::string Token(const std::string& name) const;
};

// InvalidArgument names file, field and value. A folder without these files gives empty settings.
absl::StatusOr<TextSettings> LoadTextSettings(const std::string& folder);

// Of generation_config.json, or of config.json where that is absent.
struct GenerationSettings {
  GenerationDefaults defaults;
  // What the files ask for and Chorale does not do, one sentence each.
  std::vector<std::string> notes;
};

absl::StatusOr<GenerationSettings> LoadGenerationSettings(const std::string& folder);

// Whether a folder says anything of its own about text or generation, as adapters often do.
bool HasTextSettings(const std::string& folder);
bool HasGenerationSettings(const std::string& folder);

}  // namespace chorale
