#include "model/checkpoint/safetensors_writer.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/json.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

absl::Status WriteError(const std::string& path) {
  return absl::UnavailableError(absl::StrCat(path, ": cannot write; is the disk full?"));
}

}  // namespace

const char* SafetensorsName(kernels::DType dtype) {
  switch (dtype) {
    case kernels::DType::kF32:
      return "F32";
    case kernels::DType::kF16:
      return "F16";
    case kernels::DType::kBF16:
      return "BF16";
    default:
      CHECK(false) << "not a type of safetensors: " << kernels::NameOf(dtype);
      return "";
  }
}

absl::StatusOr<SafetensorsWriter> SafetensorsWriter::Create(
    const std::string& path, const std::vector<TensorHeader>& tensors) {
  SafetensorsWriter writer;
  writer.path_ = path;
  Json header = Json::object();
  int64_t offset = 0;
  for (const TensorHeader& tensor : tensors) {
    header[tensor.name] = {{"dtype", tensor.dtype_name},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + tensor.bytes}}};
    offset += tensor.bytes;
    writer.sizes_.push_back(tensor.bytes);
  }
  std::string text = DumpJson(header);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t header_bytes = text.size();
  writer.file_.open(path, std::ios::binary | std::ios::trunc);
  writer.file_.write(reinterpret_cast<const char*>(&header_bytes), sizeof(header_bytes));
  writer.file_ << text;
  if (!writer.file_) return WriteError(path);
  return writer;
}

absl::Status SafetensorsWriter::Append(std::span<const std::byte> bytes) {
  CHECK_LT(next_, sizes_.size());
  CHECK_EQ(static_cast<int64_t>(bytes.size()), sizes_[next_]);
  ++next_;
  file_.write(reinterpret_cast<const char*>(bytes.data()),
              static_cast<std::streamsize>(bytes.size()));
  return file_ ? absl::OkStatus() : WriteError(path_);
}

absl::Status SafetensorsWriter::Finish() {
  CHECK_EQ(next_, sizes_.size());
  file_.close();
  return file_ ? absl::OkStatus() : WriteError(path_);
}

}  // namespace chorale
