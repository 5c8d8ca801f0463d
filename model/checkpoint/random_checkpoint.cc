#include "model/checkpoint/random_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/json.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "model/checkpoint/safetensors_writer.h"
#include "model/linears.h"
#include "model/weights.h"

namespace chorale {
namespace {

uint16_t F32ToF16(float value) {
  // Only for magnitudes between 2^-14 and 65504, or zero: what random weights are.
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude < 0x38800000u) return static_cast<uint16_t>(sign);
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0x1000u) >> 13));
}

struct RandomTensor {
  TensorSpec spec;
  float mean = 0;
  float scale = 0;  // of a uniform distribution around the mean
};

// Norms lie near one, biases are small, matrices keep the variance of their input.
RandomTensor Described(TensorSpec spec) {
  if (absl::EndsWith(spec.name, "norm.weight")) return {std::move(spec), 1, 0.1f};
  if (spec.shape.size() == 1) return {std::move(spec), 0, 0.1f};
  const float fan_in = static_cast<float>(spec.shape[1]);
  const bool embedding = absl::StrContains(spec.name, "embed");
  return {std::move(spec), 0, embedding ? 1.0f : std::sqrt(3.0f / fan_in)};
}

int64_t SizeOf(const TensorSpec& spec) {
  int64_t size = 1;
  for (int64_t dimension : spec.shape) size *= dimension;
  return size;
}

std::vector<std::byte> RandomBytes(const RandomTensor& tensor, kernels::DType dtype, uint64_t seed,
                                   uint64_t stream) {
  const int64_t size = SizeOf(tensor.spec);
  std::vector<std::byte> bytes(size * kernels::BytesOf(dtype));
  for (int64_t i = 0; i < size; ++i) {
    const double uniform = RandomUniform(seed, stream, i) * 2 - 1;
    const float value = tensor.mean + tensor.scale * static_cast<float>(uniform);
    if (dtype == kernels::DType::kF32) {
      std::memcpy(bytes.data() + 4 * i, &value, 4);
    } else {
      const uint16_t bits =
          dtype == kernels::DType::kF16 ? F32ToF16(value) : kernels::F32ToBF16(value);
      std::memcpy(bytes.data() + 2 * i, &bits, 2);
    }
  }
  return bytes;
}

absl::Status WriteText(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text << std::flush;
  return file ? absl::OkStatus() : absl::UnavailableError(absl::StrCat(path, ": cannot write"));
}

absl::Status WriteSafetensors(const std::string& path, const std::vector<RandomTensor>& tensors,
                              kernels::DType dtype, uint64_t seed) {
  std::vector<TensorHeader> headers;
  for (const RandomTensor& tensor : tensors) {
    headers.push_back({tensor.spec.name, SafetensorsName(dtype), tensor.spec.shape,
                       SizeOf(tensor.spec) * kernels::BytesOf(dtype)});
  }
  ASSIGN_OR_RETURN(SafetensorsWriter writer, SafetensorsWriter::Create(path, headers));
  for (size_t i = 0; i < tensors.size(); ++i) {
    RETURN_IF_ERROR(writer.Append(RandomBytes(tensors[i], dtype, seed, i)));
  }
  return writer.Finish();
}

Json ToJson(const ModelConfig& c, kernels::DType dtype) {
  CHECK(c.rope_scaling == RopeScaling{}) << "random checkpoints have plain rope";
  Json json = {{"architectures", {c.architecture}},
               {"num_hidden_layers", c.layers},
               {"hidden_size", c.hidden},
               {"num_attention_heads", c.heads},
               {"num_key_value_heads", c.kv_heads},
               {"head_dim", c.head_dim},
               {"intermediate_size", c.ffn},
               {"vocab_size", c.vocab},
               {"max_position_embeddings", c.positions_max},
               {"rms_norm_eps", c.norm_eps},
               {"rope_theta", c.rope_theta},
               {"tie_word_embeddings", c.tied_embeddings},
               {"hidden_act", "silu"},
               {"sliding_window", nullptr},
               {"torch_dtype", dtype == kernels::DType::kF32   ? "float32"
                               : dtype == kernels::DType::kF16 ? "float16"
                                                               : "bfloat16"}};
  if (c.o_bias) json["attention_bias"] = true;
  if (!c.eos_ids.empty()) json["eos_token_id"] = c.eos_ids;
  return json;
}

}  // namespace

absl::Status WriteRandomCheckpoint(const std::string& folder, const ModelConfig& config,
                                   kernels::DType dtype, uint64_t seed) {
  std::vector<RandomTensor> tensors;
  for (TensorSpec& spec : RequiredTensors(config)) tensors.push_back(Described(std::move(spec)));
  RETURN_IF_ERROR(WriteText(folder + "/config.json", ToJson(config, dtype).dump(2)));
  return WriteSafetensors(folder + "/model.safetensors", tensors, dtype, seed);
}

absl::Status WriteRandomAdapter(const std::string& folder, const ModelConfig& config, int rank,
                                double alpha, uint64_t seed, AdapterTargets targets) {
  std::vector<Linear> linears;
  Json names = Json::array();
  for (int i = 0; i < kLinears; ++i) {
    const Linear linear = static_cast<Linear>(i);
    const bool of_kv = linear == Linear::kK || linear == Linear::kV;
    if (of_kv && targets == AdapterTargets::kReader) continue;
    linears.push_back(linear);
    names.push_back(std::string(kLinearNames[i]));
  }
  std::vector<RandomTensor> tensors;
  for (int layer = 0; layer < config.layers; ++layer) {
    for (Linear linear : linears) {
      const LinearShape shape = ShapeOf(config, linear);
      const std::string name = "base_model.model." + ModuleName(layer, linear);
      tensors.push_back(Described({name + ".lora_A.weight", {rank, shape.in}}));
      tensors.push_back(Described({name + ".lora_B.weight", {shape.out, rank}}));
    }
  }
  const Json json = {{"peft_type", "LORA"},
                     {"r", rank},
                     {"lora_alpha", alpha},
                     {"target_modules", std::move(names)},
                     {"bias", "none"}};
  RETURN_IF_ERROR(WriteText(folder + "/adapter_config.json", json.dump(2)));
  return WriteSafetensors(folder + "/adapter_model.safetensors", tensors, kernels::DType::kF32,
                          seed);
}

absl::StatusOr<std::unique_ptr<const Transformer>> MakeRandomTransformer(
    const ModelConfig& config, kernels::DType dtype, uint64_t seed,
    const Transformer::Options& options, kernels::ThreadPool& pool) {
  std::string folder = (std::filesystem::temp_directory_path() / "chorale-model-XXXXXX").string();
  if (::mkdtemp(folder.data()) == nullptr) {
    return absl::UnavailableError(absl::StrCat(folder, ": ", std::strerror(errno)));
  }
  const auto remove = absl::MakeCleanup([&] {
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
  });
  RETURN_IF_ERROR(WriteRandomCheckpoint(folder, config, dtype, seed));
  return Transformer::Load(folder, options, pool);
}

}  // namespace chorale
