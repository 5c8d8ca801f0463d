// Weights of a Hugging Face checkpoint, mapped read-only into memory and bounds-checked.
//
// A header may lie: every offset, shape and size is checked against the file before a byte of a
// tensor is handed out. What no check can cover: a file that another process cuts short while it is
// mapped raises SIGBUS at the next read, so replace checkpoints by renaming, never in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "base/hash.h"
#include "kernels/tensor.h"

namespace chorale {

// A tensor inside a mapped file; valid as long as the Checkpoint it came from.
struct Tensor {
  std::string name;
  std::string dtype_name;               // as written: "F32", "I64"
  std::optional<kernels::DType> dtype;  // unset: a type that no kernel reads
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

// The tensors of one or several safetensors files. Immutable; safe to share between threads.
class Checkpoint {
 public:
  // A model folder with model.safetensors, or with model.safetensors.index.json and its shards.
  // NotFound when neither is there; InvalidArgument names file, tensor and what is wrong.
  static absl::StatusOr<std::unique_ptr<const Checkpoint>> Open(const std::string& model_folder);
  // One file ("adapter_model.safetensors"), read whole instead of mapped: adapters are small and
  // come and go while we serve. NotFound when it is absent.
  static absl::StatusOr<std::unique_ptr<const Checkpoint>> OpenFile(const std::string& path);
  ~Checkpoint();

  // The tensor called `name` with exactly this shape and a dtype of f32, f16 or bf16 (so `dtype` is
  // set). NotFound when it is missing; InvalidArgument says expected and found shape or the dtype
  // found.
  absl::StatusOr<Tensor> Get(std::string_view name, std::span<const int64_t> shape) const;
  // The same for one dtype, by the name it has in the file ("U8").
  absl::StatusOr<Tensor> GetAs(std::string_view name, std::span<const int64_t> shape,
                               std::string_view dtype_name) const;
  bool Has(std::string_view name) const;
  // Every tensor, in order of name.
  std::vector<const Tensor*> tensors() const;
  int64_t bytes() const;
  // Of the files as they were opened: path, device, inode, size and times of change. Not of their
  // bytes.
  const Digest& identity() const { return identity_; }

 private:
  struct Mapping;
  explicit Checkpoint(std::string path);
  absl::StatusOr<Tensor> Find(std::string_view name, std::span<const int64_t> shape) const;
  absl::Status AddFile(const std::string& path, bool copied = false);
  absl::Status AddShards(const std::string& model_folder);
  std::string path_;  // as it was opened, for errors
  Digest identity_;
  std::vector<std::unique_ptr<Mapping>> files_;
  absl::flat_hash_map<std::string, Tensor> tensors_;
};

// The tensors that the bytes of one safetensors file describe; the views point into `file`. The
// seam for fuzzing. `what` names the file in errors.
absl::StatusOr<std::vector<Tensor>> ParseSafetensors(std::span<const std::byte> file,
                                                     std::string_view what);

}  // namespace chorale
