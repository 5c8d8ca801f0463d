#include "model/module.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "model/linears.h"

namespace chorale {
namespace {

constexpr Mode kModes[] = {Mode::kStandard, Mode::kPrefillShare, Mode::kSun, Mode::kIcarus};

std::string ShapeText(const kernels::KvShape& shape) {
  return absl::StrFormat("%d layers x %d key heads of %d in %s", shape.layers, shape.kv_heads,
                         shape.head_dim, kernels::NameOf(shape.dtype));
}

// K/V of one may be read by the other.
absl::Status CheckFits(const Transformer& base, const Transformer& other) {
  const ModelConfig& a = base.config();
  const ModelConfig& b = other.config();
  if (base.kv_shape() != other.kv_shape()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("attention shape %s, but the base has %s: they cannot share K/V",
                        ShapeText(other.kv_shape()), ShapeText(base.kv_shape())));
  }
  if (a.vocab != b.vocab) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "vocabulary of %d, but the base has %d: they cannot share a tokenizer", b.vocab, a.vocab));
  }
  if (b.positions_max < a.positions_max) {
    return absl::InvalidArgumentError(
        absl::StrFormat("context of %d tokens, but the base has %d: prompts that the base takes "
                        "would not fit",
                        b.positions_max, a.positions_max));
  }
  if (a.rope_theta != b.rope_theta || !(a.rope_scaling == b.rope_scaling)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("rope_theta %g or rope_scaling differ from the base's (rope_theta %g): the "
                        "positions in shared K/V would not mean the same",
                        b.rope_theta, a.rope_theta));
  }
  if (!(a.window == b.window)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "attention windows of %d tokens on %d layers, but the base has %d on %d: what one no "
        "longer "
        "keeps the other would read",
        b.window.tokens, b.window.layers_windowed(), a.window.tokens, a.window.layers_windowed()));
  }
  return absl::OkStatus();
}

// A reader's row goes through every layer with the adapter, but the keys and values it sees are the
// writer's. So the adapter may change all but what makes keys and values, biases and norms too; its
// own norm before a layer's projections matters for its queries.
absl::Status CheckReader(const Module& base, const Module& module) {
  if (module.adapter == nullptr || module.transformer != base.transformer) {
    return absl::InvalidArgumentError(
        "mode icarus: the module must be an adapter on the base; for a full fine-tune use "
        "prefillshare or standard");
  }
  const auto refuse = [](int layer, const auto& part) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "mode icarus: the adapter changes '%s', but keys and values are written by the base alone; "
        "train it without, or use mode standard",
        ModuleName(layer, part)));
  };
  const Adapter& adapter = *module.adapter;
  for (int layer = 0; layer < static_cast<int>(adapter.layers.size()); ++layer) {
    for (const Linear linear : {Linear::kK, Linear::kV}) {
      if (adapter.layers[layer][static_cast<int>(linear)].changes_output()) {
        return refuse(layer, linear);
      }
    }
    if (!adapter.own_norms[layer][static_cast<int>(LayerNorm::kK)].empty()) {
      return refuse(layer, LayerNorm::kK);
    }
  }
  return absl::OkStatus();
}

absl::Status Fill(const Module& base, const Module& module, const Module& decoder, Model& model) {
  RETURN_IF_ERROR(CheckFits(*base.transformer, *module.transformer));
  RETURN_IF_ERROR(CheckFits(*base.transformer, *decoder.transformer));
  model.prompt_writer = ModuleWritesPrompts(model.mode) ? module : base;
  switch (model.mode) {
    case Mode::kStandard:
    case Mode::kPrefillShare:
      model.output_writer = model.predictor = module;
      break;
    case Mode::kSun:
      model.output_writer = model.predictor = decoder;
      break;
    case Mode::kIcarus:
      RETURN_IF_ERROR(CheckReader(base, module));
      model.output_writer = base;
      model.predictor = module;
      break;
  }
  DigestBuilder digest;
  digest.AddString("chorale model");
  for (const Module* part : {&model.prompt_writer, &model.output_writer, &model.predictor}) {
    digest.AddString(part->digest().AsBytes());
  }
  model.digest = digest.Finish();
  model.ends = model.predictor.transformer->config().eos_ids;
  return absl::OkStatus();
}

}  // namespace

const char* NameOf(Mode mode) {
  switch (mode) {
    case Mode::kStandard:
      return "standard";
    case Mode::kPrefillShare:
      return "prefillshare";
    case Mode::kSun:
      return "sun";
    case Mode::kIcarus:
      return "icarus";
  }
  return "unknown";
}

absl::StatusOr<Mode> ParseMode(std::string_view name) {
  for (Mode mode : kModes) {
    if (name == NameOf(mode)) return mode;
  }
  return absl::InvalidArgumentError(absl::StrFormat("field 'mode': '%s'; expected one of %s", name,
                                                    absl::StrJoin(ModeNames(), ", ")));
}

std::vector<std::string> ModeNames() {
  std::vector<std::string> names;
  for (Mode mode : kModes) names.emplace_back(NameOf(mode));
  return names;
}

bool ModuleWritesPrompts(Mode mode) { return mode == Mode::kStandard || mode == Mode::kSun; }

absl::StatusOr<std::shared_ptr<const Model>> MakeModel(std::string name, Mode mode,
                                                       const Module& base, const Module& module,
                                                       const Module& decoder) {
  auto model = std::make_shared<Model>();
  model->name = std::move(name);
  model->mode = mode;
  if (absl::Status status = Fill(base, module, decoder, *model); !status.ok()) {
    return absl::Status(status.code(), absl::StrFormat("model '%s': %s", model->name,
                                                       std::string(status.message())));
  }
  return model;
}

}  // namespace chorale
