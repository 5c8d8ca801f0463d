// Loads the models of a family: base once, modules as specs name them.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "model/catalog.h"
#include "text/tokenizer.h"

namespace chorale {

// Every module is held in the base's dtype, whatever its own file says; the digest covers it.
// Weights that several specs of one call name are loaded once; what an earlier call loaded is read
// again, since its files may have changed.
//
// What a model's module says of text and generation in files of its own (checkpoint_settings.h)
// counts for that model; else the base's files do.
class ModelLoader {
 public:
  // `pool` packs weights and must not be in use elsewhere during a call.
  static absl::StatusOr<ModelLoader> Open(const std::string& base_folder,
                                          const Transformer::Options& options,
                                          kernels::ThreadPool& pool, const LoadProgress& progress);

  absl::StatusOr<std::vector<std::shared_ptr<const Model>>> Load(
      const std::vector<ModelSpec>& specs, kernels::ThreadPool& pool,
      const LoadProgress& progress = nullptr) const;

  // Where the end tokens are looked up that models' files name by their text. Without it, or where
  // it does not know one, they end at the ids of their configs alone. Must outlive the loader.
  void UseTokenizer(const Tokenizer* tokenizer) { tokenizer_ = tokenizer; }

  const Module& base() const { return base_; }
  const std::string& base_folder() const { return base_folder_; }

 private:
  ModelLoader() = default;
  absl::StatusOr<Module> LoadModule(const ModuleSpec& spec, kernels::ThreadPool& pool) const;

  std::string base_folder_;
  absl::Status ReadSettings(const ModelSpec& spec, Model& model) const;

  Transformer::Options options_;
  Module base_;
  const Tokenizer* tokenizer_ = nullptr;
};

}  // namespace chorale
