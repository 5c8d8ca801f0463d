#include "model/quantized_tensor.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "model/config.h"
#include "model/safetensors_writer.h"

namespace chorale {
namespace {

namespace fs = std::filesystem;

constexpr char kMethod[] = "chorale";

std::span<const std::byte> CodesOf(const kernels::QuantizedView& view) {
  const int64_t bytes = view.rows * kernels::CodeBytesOfRow(view.dtype, view.cols);
  return {reinterpret_cast<const std::byte*>(view.codes), static_cast<size_t>(bytes)};
}
std::span<const std::byte> ScalesOf(const kernels::QuantizedView& view) {
  const int64_t bytes = int64_t{2} * view.rows * kernels::QuantGroups(view.cols);
  return {static_cast<const std::byte*>(view.scales), static_cast<size_t>(bytes)};
}

// The headers of what is written for one tensor of the source.
std::vector<TensorHeader> HeadersOf(const TensorSpec& spec, const Tensor& tensor,
                                    kernels::DType dtype) {
  if (spec.shape.size() == 1) {
    return {{spec.name, tensor.dtype_name, spec.shape, static_cast<int64_t>(tensor.bytes.size())}};
  }
  const int64_t rows = spec.shape[0];
  const int cols = static_cast<int>(spec.shape[1]);
  const int64_t code_bytes = kernels::CodeBytesOfRow(QuantizationOf(spec.name, dtype), cols);
  const int64_t groups = kernels::QuantGroups(cols);
  return {{spec.name + ".codes", "U8", {rows, code_bytes}, rows * code_bytes},
          {spec.name + ".scales", "BF16", {rows, groups}, 2 * rows * groups}};
}

absl::Status WriteConverted(const std::string& path, const ModelConfig& config,
                            const Checkpoint& checkpoint, kernels::DType dtype,
                            kernels::ThreadPool& pool, const LoadProgress& progress) {
  const std::vector<TensorSpec> specs = RequiredTensors(config);
  std::vector<Tensor> tensors;
  std::vector<TensorHeader> headers;
  for (const TensorSpec& spec : specs) {
    ASSIGN_OR_RETURN(tensors.emplace_back(), checkpoint.Get(spec.name, spec.shape));
    for (TensorHeader& header : HeadersOf(spec, tensors.back(), dtype)) {
      headers.push_back(std::move(header));
    }
  }
  ASSIGN_OR_RETURN(SafetensorsWriter writer, SafetensorsWriter::Create(path, headers));
  for (size_t i = 0; i < specs.size(); ++i) {
    if (specs[i].shape.size() == 1) {
      RETURN_IF_ERROR(writer.Append(tensors[i].bytes));
    } else {
      const QuantizedTensor quantized =
          QuantizeTensor(tensors[i], QuantizationOf(specs[i].name, dtype), pool);
      RETURN_IF_ERROR(writer.Append(CodesOf(quantized.view)));
      RETURN_IF_ERROR(writer.Append(ScalesOf(quantized.view)));
    }
    if (progress) progress(static_cast<double>(i + 1) / specs.size());
  }
  return writer.Finish();
}

// Everything but the weights: tokenizer, chat template, generation config; and a new config.json.
absl::Status CopyRest(const std::string& in, const std::string& out, kernels::DType dtype) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(in, error)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file() || name.find(".safetensors") != std::string::npos) continue;
    fs::copy_file(entry.path(), fs::path(out) / name, error);
    if (error) break;
  }
  if (error) {
    return absl::UnavailableError(
        absl::StrFormat("copying %s to %s: %s", in, out, error.message()));
  }
  ASSIGN_OR_RETURN(Json config, ParseJsonFile(in + "/config.json"));
  config["quantization_config"] = QuantizationToJson(dtype);
  std::ofstream file(out + "/config.json", std::ios::trunc);
  file << config.dump(2) << "\n" << std::flush;
  if (file) return absl::OkStatus();
  return absl::UnavailableError(absl::StrFormat("%s/config.json: cannot write", out));
}

}  // namespace

kernels::DType QuantizationOf(const std::string& name, kernels::DType dtype) {
  const bool is_vocabulary = name == "model.embed_tokens.weight" || name == "lm_head.weight";
  return is_vocabulary ? kernels::DType::kI8 : dtype;
}

absl::StatusOr<QuantizedTensor> GetQuantized(const Checkpoint& checkpoint, const std::string& name,
                                             int rows, int cols, kernels::DType dtype) {
  const int64_t codes_shape[] = {rows, kernels::CodeBytesOfRow(dtype, cols)};
  ASSIGN_OR_RETURN(const Tensor codes, checkpoint.GetAs(name + ".codes", codes_shape, "U8"));
  const int64_t scales_shape[] = {rows, kernels::QuantGroups(cols)};
  ASSIGN_OR_RETURN(const Tensor scales, checkpoint.GetAs(name + ".scales", scales_shape, "BF16"));
  return QuantizedTensor{.view = {.codes = reinterpret_cast<const uint8_t*>(codes.bytes.data()),
                                  .scales = scales.bytes.data(),
                                  .rows = rows,
                                  .cols = cols,
                                  .dtype = dtype}};
}

QuantizedTensor QuantizeTensor(const Tensor& tensor, kernels::DType dtype,
                               kernels::ThreadPool& pool) {
  kernels::Buffer copy;
  QuantizedTensor quantized;
  quantized.own = kernels::Quantize(ViewOf(tensor, copy), dtype, pool);
  quantized.view = quantized.own.view();  // of heap memory, which a move leaves in place
  return quantized;
}

Digest DigestOfQuantized(const std::string& name, const kernels::QuantizedView& view) {
  DigestBuilder digest;
  digest.AddString(name).AddString(kernels::NameOf(view.dtype)).AddInt(kernels::kQuantVersion);
  digest.AddInt(view.rows).AddInt(view.cols);
  return digest.AddRaw(CodesOf(view)).AddRaw(ScalesOf(view)).Finish();
}

Json QuantizationToJson(kernels::DType dtype) {
  return {{"quant_method", kMethod},
          {"bits", dtype == kernels::DType::kI8 ? 8 : 4},
          {"group_size", kernels::kQuantGroup},
          {"version", kernels::kQuantVersion}};
}

std::optional<kernels::DType> QuantizationFromJson(const Json& json) {
  for (kernels::DType dtype : {kernels::DType::kI8, kernels::DType::kI4}) {
    if (json == QuantizationToJson(dtype)) return dtype;
  }
  return std::nullopt;
}

absl::Status ConvertCheckpoint(const std::string& in, const std::string& out, kernels::DType dtype,
                               kernels::ThreadPool& pool, const LoadProgress& progress) {
  ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(in));
  if (config.quantization) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%s is in %s already; convert the checkpoint it was made from", in,
                        kernels::NameOf(*config.quantization)));
  }
  ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(in));
  std::error_code error;
  if (fs::exists(out, error)) {
    return absl::AlreadyExistsError(
        absl::StrFormat("%s exists; remove it or name another folder", out));
  }
  // Under another name until it is whole.
  const std::string partial = out + ".partial";
  fs::remove_all(partial, error);
  if (!fs::create_directories(partial, error)) {
    return absl::UnavailableError(absl::StrFormat("%s: %s", partial, error.message()));
  }
  absl::Status status =
      WriteConverted(partial + "/model.safetensors", config, *checkpoint, dtype, pool, progress);
  if (status.ok()) status = CopyRest(in, partial, dtype);
  if (status.ok()) {
    fs::rename(partial, out, error);
    if (error) status = absl::UnavailableError(absl::StrFormat("%s: %s", out, error.message()));
  }
  if (!status.ok()) fs::remove_all(partial, error);
  return status;
}

}  // namespace chorale
