#include "model/model_loader.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <tuple>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "model/checkpoint/checkpoint_settings.h"
#include "model/checkpoint/config_fields.h"
#include "text/chat_template.h"
#include "text/utf8.h"

namespace chorale {
namespace {

// The bytes of a folder's tokenizer; empty without one.
std::string TokenizerOf(const std::string& folder) {
  std::ifstream in(folder + "/tokenizer.json", std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

absl::Status CheckTokenizer(const std::string& base, const std::string& folder) {
  const std::string own = TokenizerOf(folder);
  if (own.empty() || own == TokenizerOf(base)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s/tokenizer.json differs from the base's (%s): models that share K/V share one tokenizer",
      folder, base));
}

absl::Status Named(const ModuleSpec& spec, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrFormat("module '%s': %s", spec.name, std::string(status.message())));
}

// One line of text, whatever bytes of a file it shows.
std::string OneLine(std::string text) {
  text = ToValidUtf8(std::move(text));
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = ' ';
  }
  return text;
}

// What the files say of text and a server of it cannot do, one sentence each.
std::vector<std::string> NotesOf(const TextSettings& text) {
  std::vector<std::string> notes;
  for (const auto& [name, source] : text.chat_templates) {
    const auto parsed = ChatTemplate::Parse(source);
    if (parsed.ok()) continue;
    notes.push_back(OneLine(
        absl::StrFormat("template '%s': %s: the chats of this model that need it are refused", name,
                        parsed.status().message())));
  }
  for (const auto& [flag, added, token] :
       {std::tuple{"add_bos_token", text.add_bos_token, "bos_token"},
        std::tuple{"add_eos_token", text.add_eos_token, "eos_token"}}) {
    if (!added.value_or(false) || !text.Token(token).empty()) continue;
    notes.push_back(absl::StrFormat(
        "tokenizer_config.json: %s holds, but no %s is named: no such token is added to a prompt",
        flag, token));
  }
  return notes;
}

}  // namespace

absl::StatusOr<ModelLoader> ModelLoader::Open(const std::string& base_folder,
                                              const Transformer::Options& options,
                                              kernels::ThreadPool& pool,
                                              const LoadProgress& progress) {
  ModelLoader loader;
  loader.base_folder_ = base_folder;
  loader.options_ = options;
  ASSIGN_OR_RETURN(loader.base_.transformer,
                   Transformer::Load(base_folder, options, pool, progress));
  // Every module holds its weights and K/V in the base's dtype, whatever its own file says.
  loader.options_.dtype = loader.base_.transformer->kv_shape().dtype;
  return loader;
}

absl::StatusOr<Module> ModelLoader::LoadModule(const ModuleSpec& spec,
                                               kernels::ThreadPool& pool) const {
  if (spec.is_base()) return base_;
  if (!spec.adapter.empty()) {
    Module module = base_;
    ASSIGN_OR_RETURN(module.adapter, base_.transformer->LoadAdapter(spec.adapter, pool));
    return module;
  }
  if (!spec.weights.empty()) RETURN_IF_ERROR(CheckTokenizer(base_folder_, spec.weights));
  Transformer::Options options = options_;
  options.quantization = spec.quantization;
  Module module;
  ASSIGN_OR_RETURN(
      module.transformer,
      Transformer::Load(spec.weights.empty() ? base_folder_ : spec.weights, options, pool));
  return module;
}

absl::Status ModelLoader::ReadSettings(const ModelSpec& spec, Model& model) const {
  const auto folder = [&](bool (*has)(const std::string&)) {
    for (const std::string& own : {spec.module.adapter, spec.module.weights}) {
      if (!own.empty() && has(own)) return own;
    }
    return base_folder_;
  };
  model.text_folder = folder(&HasTextSettings);
  ASSIGN_OR_RETURN(const TextSettings text, LoadTextSettings(model.text_folder));
  ASSIGN_OR_RETURN(model.generation, LoadGenerationSettings(folder(&HasGenerationSettings)));
  for (std::string& note : NotesOf(text)) model.generation.notes.push_back(std::move(note));
  const std::string end = text.Token("eos_token");
  if (tokenizer_ == nullptr || end.empty()) return absl::OkStatus();
  const std::optional<TokenId> id = tokenizer_->IdOf(end);
  if (!id) {
    model.generation.notes.push_back(absl::StrFormat(
        "the end token '%s' that the tokenizer's files name is not in its vocabulary", end));
  } else if (std::find(model.ends.begin(), model.ends.end(), *id) == model.ends.end()) {
    model.ends.push_back(*id);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::shared_ptr<const Model>>> ModelLoader::Load(
    const std::vector<ModelSpec>& specs, kernels::ThreadPool& pool,
    const LoadProgress& progress) const {
  std::map<std::tuple<std::string, std::string, std::optional<kernels::DType>>, Module> loaded;
  const auto load = [&](const ModuleSpec& spec) -> absl::StatusOr<Module> {
    const auto key = std::tuple(spec.weights, spec.adapter, spec.quantization);
    if (const auto found = loaded.find(key); found != loaded.end()) return found->second;
    absl::StatusOr<Module> module = LoadModule(spec, pool);
    if (!module.ok()) return Named(spec, module.status());
    loaded[key] = *module;
    return module;
  };
  std::vector<std::shared_ptr<const Model>> models;
  for (const ModelSpec& spec : specs) {
    ASSIGN_OR_RETURN(const Module module, load(spec.module));
    ASSIGN_OR_RETURN(const Module decoder, load(spec.decoder));
    ASSIGN_OR_RETURN(const auto made, MakeModel(spec.name, spec.mode, base_, module, decoder));
    auto model = std::make_shared<Model>(*made);
    if (absl::Status status = ReadSettings(spec, *model); !status.ok()) {
      return Within(absl::StrFormat("model '%s'", spec.name), status);
    }
    models.push_back(std::move(model));
    if (progress) progress(static_cast<double>(models.size()) / specs.size());
  }
  return models;
}

}  // namespace chorale
