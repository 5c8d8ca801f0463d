#include "model/checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/json.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

using kernels::DType;

// The format's own limit is 100 MB; the headers of the largest models have a few.
constexpr uint64_t kHeaderBytesMax = 16 << 20;
constexpr size_t kLengthBytes = 8;
constexpr size_t kDimensionsMax = 32;

struct DTypeEntry {
  std::string_view name;
  int64_t bytes;
  std::optional<DType> dtype;
};

constexpr std::array<DTypeEntry, 16> kDTypes = {{
    {"F32", 4, DType::kF32},
    {"F16", 2, DType::kF16},
    {"BF16", 2, DType::kBF16},
    {"F64", 8, std::nullopt},
    {"C64", 8, std::nullopt},
    {"I64", 8, std::nullopt},
    {"U64", 8, std::nullopt},
    {"I32", 4, std::nullopt},
    {"U32", 4, std::nullopt},
    {"I16", 2, std::nullopt},
    {"U16", 2, std::nullopt},
    {"I8", 1, std::nullopt},
    {"U8", 1, std::nullopt},
    {"BOOL", 1, std::nullopt},
    {"F8_E4M3", 1, std::nullopt},
    {"F8_E5M2", 1, std::nullopt},
}};

std::string ShapeText(std::span<const int64_t> shape) {
  return absl::StrFormat("[%s]", absl::StrJoin(shape.begin(), shape.end(), ", "));
}

// Where a tensor lies, relative to the end of the header.
struct Placed {
  Tensor tensor;
  uint64_t begin = 0;
  uint64_t end = 0;
};

absl::Status TensorError(std::string_view what, std::string_view name, std::string_view problem) {
  return absl::InvalidArgumentError(absl::StrFormat("%s: tensor '%s': %s", what, name, problem));
}

// The first name that some object of `text`, which is valid JSON, holds twice; empty for none. A
// parser that keeps the last of two would let one header mean two things.
std::string RepeatedName(std::string_view text) {
  std::string repeated;
  std::vector<absl::flat_hash_set<std::string>> open;
  const auto visit = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end) open.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& name = parsed.get_ref<const std::string&>();
      if (!open.back().insert(name).second && repeated.empty()) repeated = name;
    }
    return true;
  };
  const Json ignored = Json::parse(text.begin(), text.end(), visit, /*allow_exceptions=*/false);
  return repeated;
}

// A list of non-negative integers.
std::optional<std::vector<int64_t>> Integers(const Json& object, const char* field) {
  const auto it = object.find(field);
  if (it == object.end() || !it->is_array()) return std::nullopt;
  std::vector<int64_t> values;
  values.reserve(it->size());
  for (const Json& value : *it) {
    if (!value.is_number_unsigned()) return std::nullopt;
    if (value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
    values.push_back(value.get<int64_t>());
  }
  return values;
}

// Bytes of a tensor, or nothing when they overflow.
std::optional<int64_t> SizeOf(std::span<const int64_t> shape, int64_t element_bytes) {
  int64_t bytes = element_bytes;
  for (int64_t dimension : shape) {
    if (__builtin_mul_overflow(bytes, dimension, &bytes)) return std::nullopt;
  }
  return bytes;
}

absl::StatusOr<Placed> ParseTensor(std::string_view what, const std::string& name,
                                   const Json& entry, uint64_t data_bytes) {
  if (!entry.is_object()) return TensorError(what, name, "its header entry is not an object");
  const auto dtype_name = JsonString(entry, "dtype");
  if (!dtype_name.ok()) return TensorError(what, name, std::string(dtype_name.status().message()));
  const auto dtype = std::find_if(kDTypes.begin(), kDTypes.end(),
                                  [&](const DTypeEntry& d) { return d.name == *dtype_name; });
  if (dtype == kDTypes.end()) {
    return TensorError(what, name, absl::StrFormat("dtype '%s' is not known", *dtype_name));
  }
  auto shape = Integers(entry, "shape");
  if (!shape || shape->size() > kDimensionsMax) {
    return TensorError(what, name,
                       absl::StrFormat("field 'shape' must be a list of at most %d "
                                       "integers of 0 or more",
                                       kDimensionsMax));
  }
  const auto offsets = Integers(entry, "data_offsets");
  if (!offsets || offsets->size() != 2) {
    return TensorError(what, name,
                       "field 'data_offsets' must be a list of two integers of 0 or more");
  }
  const uint64_t begin = (*offsets)[0];
  const uint64_t end = (*offsets)[1];
  if (begin > end || end > data_bytes) {
    return TensorError(what, name,
                       absl::StrFormat("data_offsets [%d, %d] do not lie within the file's %d "
                                       "bytes of data; is it truncated?",
                                       begin, end, data_bytes));
  }
  const auto bytes = SizeOf(*shape, dtype->bytes);
  if (!bytes || static_cast<uint64_t>(*bytes) != end - begin) {
    return TensorError(
        what, name,
        absl::StrFormat("shape %s of %s takes %s bytes, data_offsets give it %d", ShapeText(*shape),
                        *dtype_name, bytes ? std::to_string(*bytes) : std::string("more than 2^63"),
                        end - begin));
  }
  return Placed{.tensor = {.name = name,
                           .dtype_name = *dtype_name,
                           .dtype = dtype->dtype,
                           .shape = *std::move(shape)},
                .begin = begin,
                .end = end};
}

// The format demands that tensors cover the data from end to end, without overlap or hole.
absl::Status CheckLayout(std::string_view what, std::vector<Placed>& placed, uint64_t data_bytes) {
  std::sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t covered = 0;
  for (const Placed& p : placed) {
    if (p.begin < covered) {
      return TensorError(what, p.tensor.name, "its bytes overlap those of another tensor");
    }
    if (p.begin > covered) {
      return TensorError(
          what, p.tensor.name,
          absl::StrFormat("there is a hole of %d bytes before it", p.begin - covered));
    }
    covered = p.end;
  }
  if (covered != data_bytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: %d bytes after the last tensor belong to none", what, data_bytes - covered));
  }
  return absl::OkStatus();
}

// The text of the header.
absl::StatusOr<std::string_view> HeaderOf(std::span<const std::byte> file, std::string_view what) {
  if (file.size() < kLengthBytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: truncated: %d bytes, but a safetensors file begins with a header length of 8", what,
        file.size()));
  }
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    header_bytes |= std::to_integer<uint64_t>(file[i]) << (8 * i);
  }
  if (header_bytes > kHeaderBytesMax) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: header of %d bytes, more than the limit of %d; not a safetensors file?", what,
        header_bytes, kHeaderBytesMax));
  }
  if (header_bytes > file.size() - kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: truncated: the header has %d bytes, but only %d follow its length",
                        what, header_bytes, file.size() - kLengthBytes));
  }
  return std::string_view(reinterpret_cast<const char*>(file.data()) + kLengthBytes, header_bytes);
}

}  // namespace

absl::StatusOr<std::vector<Tensor>> ParseSafetensors(std::span<const std::byte> file,
                                                     std::string_view what) {
  ASSIGN_OR_RETURN(const std::string_view text, HeaderOf(file, what));
  const std::span<const std::byte> data = file.subspan(kLengthBytes + text.size());
  ASSIGN_OR_RETURN(const Json header, ParseJson(text, absl::StrFormat("%s: header", what)));
  if (!header.is_object()) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: the header is not an object", what));
  }
  if (const std::string name = RepeatedName(text); !name.empty()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: the header holds '%s' twice", what, name));
  }
  std::vector<Placed> placed;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    ASSIGN_OR_RETURN(Placed p, ParseTensor(what, name, entry, data.size()));
    placed.push_back(std::move(p));
  }
  RETURN_IF_ERROR(CheckLayout(what, placed, data.size()));
  std::vector<Tensor> tensors;
  tensors.reserve(placed.size());
  for (Placed& p : placed) {
    p.tensor.bytes = data.subspan(p.begin, p.end - p.begin);
    tensors.push_back(std::move(p.tensor));
  }
  return tensors;
}

// A file mapped read-only, unmapped at the end.
struct Checkpoint::Mapping {
  std::byte* data = nullptr;
  size_t bytes = 0;
  struct stat info = {};

  Mapping() = default;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (data != nullptr) munmap(data, bytes);
  }

  // `copied`: read into memory of our own, which no other process can change or cut short.
  absl::Status Open(const std::string& path, bool copied) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
      const auto code =
          errno == ENOENT ? absl::StatusCode::kNotFound : absl::StatusCode::kUnavailable;
      return absl::Status(code, absl::StrFormat("%s: %s", path, std::strerror(errno)));
    }
    absl::Status status = Map(fd, path);
    if (status.ok() && copied) status = Copy(fd, path);
    close(fd);
    return status;
  }

 private:
  // In place of the file's pages, private ones with its bytes.
  absl::Status Copy(int fd, const std::string& path) {
    void* memory = mmap(data, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, /*fd=*/-1, 0);
    for (size_t done = 0; memory != MAP_FAILED && done < bytes;) {
      const ssize_t got = pread(fd, data + done, bytes - done, static_cast<off_t>(done));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) {
        return absl::DataLossError(
            absl::StrFormat("%s: changed while it was read; replace files by renaming", path));
      }
      done += got;
    }
    if (memory != MAP_FAILED) return absl::OkStatus();
    return absl::UnavailableError(absl::StrFormat("%s: no memory for %d bytes", path, bytes));
  }

  absl::Status Map(int fd, const std::string& path) {
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: not a regular file", path));
    }
    if (info.st_size == 0) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: truncated: the file is empty", path));
    }
    void* memory = mmap(nullptr, info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (memory == MAP_FAILED) {
      return absl::UnavailableError(
          absl::StrFormat("%s: cannot be mapped: %s", path, std::strerror(errno)));
    }
    data = static_cast<std::byte*>(memory);
    bytes = info.st_size;
    madvise(data, bytes, MADV_WILLNEED);  // advice only: weights are read once, soon
    return absl::OkStatus();
  }
};

Checkpoint::Checkpoint(std::string path) : path_(std::move(path)) {}
Checkpoint::~Checkpoint() = default;

absl::Status Checkpoint::AddFile(const std::string& path, bool copied) {
  auto mapping = std::make_unique<Mapping>();
  RETURN_IF_ERROR(mapping->Open(path, copied));
  ASSIGN_OR_RETURN(std::vector<Tensor> tensors,
                   ParseSafetensors({mapping->data, mapping->bytes}, path));
  for (Tensor& tensor : tensors) {
    std::string name = tensor.name;
    if (!tensors_.try_emplace(std::move(name), std::move(tensor)).second) {
      return TensorError(path, tensor.name, "another file of this model has it too");
    }
  }
  DigestBuilder identity;
  identity.AddString(identity_.AsBytes());
  identity.AddString(std::filesystem::absolute(path).lexically_normal().string());
  const struct stat& info = mapping->info;
  for (int64_t value :
       {static_cast<int64_t>(info.st_dev), static_cast<int64_t>(info.st_ino),
        static_cast<int64_t>(info.st_size), static_cast<int64_t>(info.st_mtim.tv_sec),
        static_cast<int64_t>(info.st_mtim.tv_nsec), static_cast<int64_t>(info.st_ctim.tv_sec),
        static_cast<int64_t>(info.st_ctim.tv_nsec)}) {
    identity.AddInt(value);
  }
  identity_ = identity.Finish();
  files_.push_back(std::move(mapping));
  return absl::OkStatus();
}

absl::Status Checkpoint::AddShards(const std::string& model_folder) {
  const std::string index_path = model_folder + "/model.safetensors.index.json";
  ASSIGN_OR_RETURN(const Json index, ParseJsonFile(index_path));
  const auto map = index.is_object() ? index.find("weight_map") : index.end();
  if (map == index.end() || !map->is_object() || map->empty()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: field 'weight_map' must be an object of tensor names and file names", index_path));
  }
  std::set<std::string> shards;
  std::set<std::string> missing;
  std::error_code ignored;
  for (const auto& [name, file] : map->items()) {
    const std::string shard = file.is_string() ? file.get<std::string>() : std::string();
    if (shard.empty() || shard == "." || shard == ".." ||
        shard.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: field 'weight_map.%s': %s is not the name of a file in this folder",
                          index_path, name, DumpJson(file)));
    }
    const bool present = std::filesystem::exists(model_folder + "/" + shard, ignored);
    (present ? shards : missing).insert(shard);
  }
  if (!missing.empty()) {
    return absl::NotFoundError(
        absl::StrFormat("%s: missing: %s", model_folder, absl::StrJoin(missing, ", ")));
  }
  for (const std::string& shard : shards) RETURN_IF_ERROR(AddFile(model_folder + "/" + shard));
  for (const auto& [name, file] : map->items()) {
    if (!Has(name)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: tensor '%s' is in none of the files; the index says %s", index_path,
                          name, DumpJson(file)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<const Checkpoint>> Checkpoint::Open(
    const std::string& model_folder) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint(model_folder));
  std::error_code ignored;
  if (std::filesystem::exists(model_folder + "/model.safetensors", ignored)) {
    RETURN_IF_ERROR(checkpoint->AddFile(model_folder + "/model.safetensors"));
  } else if (std::filesystem::exists(model_folder + "/model.safetensors.index.json", ignored)) {
    RETURN_IF_ERROR(checkpoint->AddShards(model_folder));
  } else {
    return absl::NotFoundError(absl::StrFormat(
        "%s: neither model.safetensors nor model.safetensors.index.json is there", model_folder));
  }
  return checkpoint;
}

absl::StatusOr<std::unique_ptr<const Checkpoint>> Checkpoint::OpenFile(const std::string& path) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint(path));
  RETURN_IF_ERROR(checkpoint->AddFile(path, /*copied=*/true));
  return checkpoint;
}

absl::StatusOr<Tensor> Checkpoint::Find(std::string_view name,
                                        std::span<const int64_t> shape) const {
  const auto it = tensors_.find(std::string(name));
  if (it == tensors_.end()) {
    return absl::NotFoundError(absl::StrFormat("%s: tensor '%s' is missing; expected shape %s",
                                               path_, name, ShapeText(shape)));
  }
  const Tensor& tensor = it->second;
  if (!std::equal(shape.begin(), shape.end(), tensor.shape.begin(), tensor.shape.end())) {
    return TensorError(
        path_, name,
        absl::StrFormat("expected shape %s, found %s", ShapeText(shape), ShapeText(tensor.shape)));
  }
  return tensor;
}

absl::StatusOr<Tensor> Checkpoint::Get(std::string_view name,
                                       std::span<const int64_t> shape) const {
  ASSIGN_OR_RETURN(Tensor tensor, Find(name, shape));
  if (!tensor.dtype) {
    return TensorError(
        path_, name,
        absl::StrFormat("expected dtype F32, F16 or BF16, found %s", tensor.dtype_name));
  }
  return tensor;
}

absl::StatusOr<Tensor> Checkpoint::GetAs(std::string_view name, std::span<const int64_t> shape,
                                         std::string_view dtype_name) const {
  ASSIGN_OR_RETURN(Tensor tensor, Find(name, shape));
  if (tensor.dtype_name != dtype_name) {
    return TensorError(
        path_, name, absl::StrFormat("expected dtype %s, found %s", dtype_name, tensor.dtype_name));
  }
  return tensor;
}

bool Checkpoint::Has(std::string_view name) const { return tensors_.contains(std::string(name)); }

std::vector<const Tensor*> Checkpoint::tensors() const {
  std::vector<const Tensor*> sorted;
  sorted.reserve(tensors_.size());
  for (const auto& [name, tensor] : tensors_) sorted.push_back(&tensor);
  std::sort(sorted.begin(), sorted.end(),
            [](const Tensor* a, const Tensor* b) { return a->name < b->name; });
  return sorted;
}

int64_t Checkpoint::bytes() const {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : tensors_) bytes += static_cast<int64_t>(tensor.bytes.size());
  return bytes;
}

}  // namespace chorale
