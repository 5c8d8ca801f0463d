// A catalog names the models of a family: the file chorale.yaml beside the weights.
//
//   version: 1
//   base: base                      # a model folder; its tokenizer serves every model
//   modules:
//     - {name: math-lora, adapter: math/lora}     # a PEFT folder, on the base
//     - {name: code-full, weights: code/full}     # a model folder of the base's shape
//     - {name: base-int4, quantize: int4}         # the base in 8 or 4 bits; also with weights
//   models:
//     - {name: base}                              # mode standard, of the base
//     - {name: math, mode: icarus, module: math-lora}
//     - {name: fast, mode: sun, module: code-full, decoder: base-int4}
//
// Folders are relative to the file. What is unknown or does not fit is refused by name.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/module.h"

namespace chorale {

struct ModuleSpec {
  std::string name;                            // for errors
  std::string weights;                         // a model folder; empty: the base's
  std::string adapter;                         // a PEFT folder; empty: none
  std::optional<kernels::DType> quantization;  // kI8, kI4

  // Whether it is the base as it is.
  bool is_base() const { return weights.empty() && adapter.empty() && !quantization; }
};

struct ModelSpec {
  std::string name;
  Mode mode = Mode::kStandard;
  ModuleSpec module;   // the base unless given
  ModuleSpec decoder;  // of mode sun
};

struct CatalogSpec {
  std::string base;  // a model folder
  std::vector<ModelSpec> models;
};

// "int8" or "int4"; InvalidArgument otherwise.
absl::StatusOr<kernels::DType> ParseQuantization(std::string_view name);

// InvalidArgument names `what` (the file), the line, the field and what was expected.
absl::StatusOr<CatalogSpec> ParseCatalog(std::string_view yaml, const std::string& folder,
                                         std::string_view what);
// Reads `path`, a chorale.yaml or the folder that holds one. NotFound when there is none.
absl::StatusOr<CatalogSpec> ReadCatalog(const std::string& path);

// Loads models on one base. Weights that several specs of one call name are loaded once; what an
// earlier call loaded is read again, since its files may have changed.
class ModelLoader {
 public:
  // `pool` packs weights and must not be in use elsewhere during a call.
  static absl::StatusOr<ModelLoader> Open(const std::string& base_folder,
                                          const Transformer::Options& options,
                                          kernels::ThreadPool& pool, const LoadProgress& progress);

  absl::StatusOr<std::vector<std::shared_ptr<const Model>>> Load(
      const std::vector<ModelSpec>& specs, kernels::ThreadPool& pool,
      const LoadProgress& progress = nullptr) const;

  const Module& base() const { return base_; }
  const std::string& base_folder() const { return base_folder_; }

 private:
  ModelLoader() = default;
  absl::StatusOr<Module> LoadModule(const ModuleSpec& spec, kernels::ThreadPool& pool) const;

  std::string base_folder_;
  Transformer::Options options_;
  Module base_;
};

}  // namespace chorale
