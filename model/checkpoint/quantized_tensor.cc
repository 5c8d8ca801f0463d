#include "model/checkpoint/quantized_tensor.h"

#include "base/status_macros.h"
#include "model/weights.h"

namespace chorale {

std::span<const std::byte> CodesOf(const kernels::QuantizedView& view) {
  const int64_t bytes = view.rows * kernels::CodeBytesOfRow(view.dtype, view.cols);
  return {reinterpret_cast<const std::byte*>(view.codes), static_cast<size_t>(bytes)};
}
std::span<const std::byte> ScalesOf(const kernels::QuantizedView& view) {
  const int64_t bytes = int64_t{2} * view.rows * kernels::QuantGroups(view.cols);
  return {static_cast<const std::byte*>(view.scales), static_cast<size_t>(bytes)};
}

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

}  // namespace chorale
