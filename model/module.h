// Modules and models: which weights write K/V, and which predict.
//
// A module is a set of weights: a base, a full fine-tune, or either with an adapter. A model names
// three of them over one tokenizer and one attention shape:
//
//   mode          writes the prompt's K/V   writes the output's K/V   predicts tokens
//   standard      M                         M                         M
//   prefillshare  base                      M                         M
//   sun           M                         decoder                   decoder
//   icarus        base                      base                      base + adapter M
//
// The decoder of sun is the base, or the base in fewer bits (QSUN). Beyond this file and the check
// of a spec (catalog.h) nothing knows about modes: the cache compares the digests of writers, the
// engine runs modules.
// Papers: arXiv 2602.12029 (PrefillShare), 2603.02599 (SUN), 2603.13281 (ICaRus).
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/hash.h"
#include "model/checkpoint/checkpoint_settings.h"
#include "model/transformer.h"

namespace chorale {

struct Module {
  std::shared_ptr<const Transformer> transformer;
  std::shared_ptr<const Adapter> adapter;  // null: none

  // Names the weights and all that changes the K/V they write.
  const Digest& digest() const {
    return adapter != nullptr ? adapter->module_digest : transformer->digest();
  }
};

enum class Mode { kStandard, kPrefillShare, kSun, kIcarus };
const char* NameOf(Mode mode);  // "standard", "prefillshare", "sun", "icarus"
// InvalidArgument lists the names.
absl::StatusOr<Mode> ParseMode(std::string_view name);
// Of all modes.
std::vector<std::string> ModeNames();
// Whether prompts are written by M, or by the base.
bool ModuleWritesPrompts(Mode mode);

// Immutable. Requests share a model's weights for as long as they run, whatever its name has come
// to mean since.
struct Model {
  std::string name;
  Mode mode = Mode::kStandard;
  Module prompt_writer;
  Module output_writer;
  Module predictor;
  // Names the three modules: the version of what `name` stands for.
  Digest digest;
  // What ends a text: the predictor's end tokens, and what its files call the end of a text
  // (model_loader.h).
  std::vector<TokenId> ends;
  GenerationSettings generation;
  std::string text_folder;  // whose template and special tokens count; empty: the base's

  // Of the row that predicts, where that is another than the row that writes (icarus); else null.
  const Adapter* reader() const {
    return predictor.adapter != output_writer.adapter ? predictor.adapter.get() : nullptr;
  }
};

// A model on `base` of its module M and, for sun, its decoder. InvalidArgument says what does not
// fit: attention shape, dtype, vocabulary, context or rope; for icarus, a module that is not an
// adapter on the base, or one that changes k_proj, v_proj or k_norm, which no reader could see.
absl::StatusOr<std::shared_ptr<const Model>> MakeModel(std::string name, Mode mode,
                                                       const Module& base, const Module& module,
                                                       const Module& decoder);

}  // namespace chorale
