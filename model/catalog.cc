// By way of yaml-cpp, whose exceptions do not leave this file.
#include "model/catalog.h"

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <utility>

#include <yaml-cpp/yaml.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/names.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

constexpr int64_t kCatalogBytesMax = 1 << 20;
constexpr int kCatalogVersion = 1;

absl::Status ErrorAt(const YAML::Node& node, const std::string& message) {
  return absl::InvalidArgumentError(absl::StrFormat("line %d: %s", node.Mark().line + 1, message));
}

// The fields of a mapping, none of them unknown.
absl::Status CheckFields(const YAML::Node& node, const std::set<std::string>& known) {
  if (!node.IsMap()) {
    return ErrorAt(node, absl::StrFormat("expected fields of %s", absl::StrJoin(known, ", ")));
  }
  std::set<std::string> seen;
  for (const auto& field : node) {
    if (!field.first.IsScalar() || !known.contains(field.first.Scalar())) {
      return ErrorAt(field.first,
                     absl::StrFormat("field '%s' is not known; there is %s",
                                     field.first.IsScalar() ? field.first.Scalar() : "(no name)",
                                     absl::StrJoin(known, ", ")));
    }
    if (!seen.insert(field.first.Scalar()).second) {
      return ErrorAt(field.first,
                     absl::StrFormat("field '%s' is given twice", field.first.Scalar()));
    }
  }
  return absl::OkStatus();
}

// The text of a field, empty when it is absent.
absl::StatusOr<std::string> Text(const YAML::Node& node, const char* field) {
  const YAML::Node value = node[field];
  if (!value.IsDefined()) return "";
  if (!value.IsScalar() || value.Scalar().empty()) {
    return ErrorAt(value, absl::StrFormat("field '%s': expected a text", field));
  }
  return value.Scalar();
}

absl::StatusOr<std::string> Required(const YAML::Node& node, const char* field) {
  ASSIGN_OR_RETURN(std::string text, Text(node, field));
  if (text.empty()) return ErrorAt(node, absl::StrFormat("field '%s' is missing", field));
  return text;
}

absl::StatusOr<std::string> Folder(const YAML::Node& node, const char* field,
                                   const std::string& relative_to) {
  ASSIGN_OR_RETURN(const std::string text, Text(node, field));
  if (text.empty()) return text;
  return (std::filesystem::path(relative_to) / text).lexically_normal().string();
}

absl::Status CheckModule(const ModuleSpec& spec) {
  if (spec.adapter.empty() || (spec.weights.empty() && !spec.quantization)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "module '%s': an adapter lies on the base as it is; leave out weights and quantize",
      spec.name));
}

absl::StatusOr<ModuleSpec> ParseModule(const YAML::Node& node, const std::string& folder) {
  RETURN_IF_ERROR(CheckFields(node, {"name", "weights", "adapter", "quantize"}));
  ModuleSpec spec;
  ASSIGN_OR_RETURN(spec.name, Required(node, "name"));
  ASSIGN_OR_RETURN(spec.weights, Folder(node, "weights", folder));
  ASSIGN_OR_RETURN(spec.adapter, Folder(node, "adapter", folder));
  ASSIGN_OR_RETURN(const std::string quantize, Text(node, "quantize"));
  if (!quantize.empty()) {
    absl::StatusOr<kernels::DType> dtype = ParseQuantization(quantize);
    if (!dtype.ok()) return ErrorAt(node["quantize"], std::string(dtype.status().message()));
    spec.quantization = *dtype;
  }
  if (spec.is_base()) {
    return ErrorAt(node,
                   absl::StrFormat("module '%s': give weights, adapter or quantize", spec.name));
  }
  if (absl::Status status = CheckModule(spec); !status.ok()) {
    return ErrorAt(node, std::string(status.message()));
  }
  return spec;
}

using Modules = std::map<std::string, ModuleSpec>;

absl::StatusOr<ModuleSpec> FindModule(const YAML::Node& node, const char* field,
                                      const Modules& modules) {
  ASSIGN_OR_RETURN(const std::string name, Text(node, field));
  if (name.empty() || name == "base") return ModuleSpec{.name = "base"};
  const auto found = modules.find(name);
  if (found != modules.end()) return found->second;
  std::vector<std::string> names = {"base"};
  for (const auto& [known, spec] : modules) names.push_back(known);
  return ErrorAt(node[field], absl::StrFormat("field '%s': there is no module '%s'; there is %s",
                                              field, name, absl::StrJoin(names, ", ")));
}

absl::StatusOr<ModelSpec> ParseModel(const YAML::Node& node, const Modules& modules) {
  RETURN_IF_ERROR(CheckFields(node, {"name", "mode", "module", "decoder"}));
  ModelSpec spec;
  ASSIGN_OR_RETURN(spec.name, Required(node, "name"));
  ASSIGN_OR_RETURN(const std::string mode, Text(node, "mode"));
  if (!mode.empty()) {
    absl::StatusOr<Mode> parsed = ParseMode(mode);
    if (!parsed.ok()) return ErrorAt(node["mode"], std::string(parsed.status().message()));
    spec.mode = *parsed;
  }
  ASSIGN_OR_RETURN(spec.module, FindModule(node, "module", modules));
  ASSIGN_OR_RETURN(spec.decoder, FindModule(node, "decoder", modules));
  if (absl::Status status = CheckSpec(spec); !status.ok()) {
    return ErrorAt(node, std::string(status.message()));
  }
  return spec;
}

absl::StatusOr<YAML::Node> ListOf(const YAML::Node& root, const char* field) {
  const YAML::Node list = root[field];
  if (list.IsDefined() && !list.IsSequence()) {
    return ErrorAt(list, absl::StrFormat("field '%s': expected a list", field));
  }
  return list;
}

absl::StatusOr<CatalogSpec> ParseRoot(const YAML::Node& root, const std::string& folder) {
  RETURN_IF_ERROR(CheckFields(root, {"version", "base", "modules", "models"}));
  ASSIGN_OR_RETURN(const std::string version, Required(root, "version"));
  if (version != absl::StrFormat("%d", kCatalogVersion)) {
    return ErrorAt(root["version"], absl::StrFormat("field 'version': '%s'; this program reads %d",
                                                    version, kCatalogVersion));
  }
  CatalogSpec spec;
  ASSIGN_OR_RETURN(spec.base, Folder(root, "base", folder));
  if (spec.base.empty()) return ErrorAt(root, "field 'base' is missing: name a model folder");
  Modules modules;
  ASSIGN_OR_RETURN(const YAML::Node module_list, ListOf(root, "modules"));
  for (const YAML::Node& node : module_list) {
    ASSIGN_OR_RETURN(ModuleSpec module, ParseModule(node, folder));
    if (module.name == "base" || !modules.try_emplace(module.name, module).second) {
      return ErrorAt(node, absl::StrFormat("module '%s': the name is taken", module.name));
    }
  }
  std::set<std::string> names;
  ASSIGN_OR_RETURN(const YAML::Node model_list, ListOf(root, "models"));
  for (const YAML::Node& node : model_list) {
    ASSIGN_OR_RETURN(ModelSpec model, ParseModel(node, modules));
    if (!names.insert(model.name).second) {
      return ErrorAt(node, absl::StrFormat("model '%s' is there twice", model.name));
    }
    spec.models.push_back(std::move(model));
  }
  if (spec.models.empty()) return ErrorAt(root, "field 'models': name at least one");
  return spec;
}

}  // namespace

absl::StatusOr<kernels::DType> ParseQuantization(std::string_view name) {
  for (kernels::DType dtype : {kernels::DType::kI8, kernels::DType::kI4}) {
    if (name == kernels::NameOf(dtype)) return dtype;
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("field 'quantize': '%s'; expected int8 or int4", name));
}

absl::Status CheckSpec(const ModelSpec& spec) {
  if (!IsName(spec.name)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'name': '%s' is not a name: give 1 to %d printable ASCII characters without blanks",
        absl::CHexEscape(spec.name.substr(0, 40)), kNameBytesMax));
  }
  RETURN_IF_ERROR(CheckModule(spec.module));
  RETURN_IF_ERROR(CheckModule(spec.decoder));
  if (!spec.decoder.is_base() && spec.mode != Mode::kSun) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "model '%s': a decoder belongs to mode sun, not to %s", spec.name, NameOf(spec.mode)));
  }
  if (!spec.decoder.adapter.empty()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("model '%s': the decoder of mode sun is shared by all models, so it has no "
                        "adapter; give the base, or the base in fewer bits",
                        spec.name));
  }
  return absl::OkStatus();
}

ModelSpec PromptWriterOf(const ModelSpec& spec) {
  return {.name = spec.name, .module = ModuleWritesPrompts(spec.mode) ? spec.module : ModuleSpec{}};
}

absl::StatusOr<CatalogSpec> ParseCatalog(std::string_view yaml, const std::string& folder,
                                         std::string_view what) {
  absl::StatusOr<CatalogSpec> spec;
  try {
    spec = ParseRoot(YAML::Load(std::string(yaml)), folder);
  } catch (const YAML::Exception& error) {
    spec =
        absl::InvalidArgumentError(absl::StrFormat("line %d: %s", error.mark.line + 1, error.msg));
  }
  if (spec.ok()) return spec;
  return absl::InvalidArgumentError(
      absl::StrFormat("%s: %s", what, std::string(spec.status().message())));
}

absl::StatusOr<CatalogSpec> ReadCatalog(const std::string& path) {
  std::filesystem::path file = path;
  std::error_code error;
  if (std::filesystem::is_directory(file, error)) file /= "chorale.yaml";
  const auto bytes = std::filesystem::file_size(file, error);
  if (error) {
    return absl::NotFoundError(absl::StrFormat("%s: %s; give a chorale.yaml or its folder",
                                               file.string(), error.message()));
  }
  if (bytes > kCatalogBytesMax) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: %d bytes, more than the limit of %d",
                                                      file.string(), bytes, kCatalogBytesMax));
  }
  std::ifstream in(file);
  std::stringstream text;
  text << in.rdbuf();
  if (!in) return absl::InvalidArgumentError(absl::StrFormat("%s: cannot be read", file.string()));
  return ParseCatalog(text.str(), file.parent_path().string(), file.string());
}

}  // namespace chorale
