#include "model/checkpoint/convert.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "model/checkpoint/checkpoint_settings.h"
#include "model/checkpoint/config.h"
#include "model/checkpoint/quantized_tensor.h"
#include "model/checkpoint/safetensors_writer.h"

namespace chorale {
namespace {

namespace fs = std::filesystem;

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

// Whether a file of a model folder is something other than weights.
bool IsText(const std::string& name) {
  constexpr std::array<const char*, 4> kEndings = {".json", ".txt", ".jinja", ".model"};
  return !absl::EndsWith(name, ".index.json") &&
         std::any_of(kEndings.begin(), kEndings.end(),
                     [&](const char* ending) { return absl::EndsWith(name, ending); });
}

absl::Status CopyTextsOf(const fs::path& in, const fs::path& out) {
  std::error_code error;
  for (auto it = fs::directory_iterator(in, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (IsText(name)) fs::copy_file(it->path(), out / name, error);
    if (error) break;
  }
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrFormat("copying %s to %s: %s", in.string(), out.string(), error.message()));
}

// Tokenizer, chat templates and generation config as they are; config.json with a word on the
// codes.
absl::Status CopyTexts(const std::string& in, const std::string& out, kernels::DType dtype) {
  RETURN_IF_ERROR(CopyTextsOf(in, out));
  std::error_code error;
  const fs::path templates = fs::path(in) / kTemplatesFolder;
  if (fs::is_directory(templates, error)) {
    fs::create_directory(fs::path(out) / kTemplatesFolder, error);
    RETURN_IF_ERROR(CopyTextsOf(templates, fs::path(out) / kTemplatesFolder));
  }
  ASSIGN_OR_RETURN(Json config, ParseJsonFile(in + "/config.json"));
  config[kQuantizationField] = QuantizationToJson(dtype);
  std::ofstream file(out + "/config.json", std::ios::trunc);
  file << config.dump(2) << "\n" << std::flush;
  if (file) return absl::OkStatus();
  return absl::UnavailableError(absl::StrFormat("%s/config.json: cannot write", out));
}

}  // namespace

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
  fs::path target = fs::path(out).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();  // "out/"
  if (fs::exists(target, error)) {
    return absl::AlreadyExistsError(
        absl::StrFormat("%s exists; remove it or name another folder", out));
  }
  // Under another name until it is whole.
  const std::string partial = target.string() + ".partial";
  fs::remove_all(partial, error);
  if (!fs::create_directories(partial, error)) {
    return absl::UnavailableError(absl::StrFormat("%s: %s", partial, error.message()));
  }
  absl::Status status =
      WriteConverted(partial + "/model.safetensors", config, *checkpoint, dtype, pool, progress);
  if (status.ok()) status = CopyTexts(in, partial, dtype);
  if (status.ok()) {
    fs::rename(partial, target, error);
    if (error) status = absl::UnavailableError(absl::StrFormat("%s: %s", out, error.message()));
  }
  if (!status.ok()) fs::remove_all(partial, error);
  return status;
}

}  // namespace chorale
