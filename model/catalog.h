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
// Folders are relative to the file. What is unknown is refused by name; what does not fit, by the
// loader (model_loader.h).
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

// What every spec must keep to, whether it comes from a file or over the wire: a name; an adapter
// lies on the base as it is; a decoder belongs to mode sun and is the base, in fewer bits or not.
absl::Status CheckSpec(const ModelSpec& spec);

// What a worker that only writes prompts makes of a model: its prompt writer, as a model of its
// own.
ModelSpec PromptWriterOf(const ModelSpec& spec);

// InvalidArgument names `what` (the file), the line, the field and what was expected.
absl::StatusOr<CatalogSpec> ParseCatalog(std::string_view yaml, const std::string& folder,
                                         std::string_view what);
// Reads `path`, a chorale.yaml or the folder that holds one. NotFound when there is none.
absl::StatusOr<CatalogSpec> ReadCatalog(const std::string& path);

}  // namespace chorale
