// Digests of weights: what names a module, and so the writer of a key/value block.
//
// A base is its tensors (name, dtype, shape, bytes) and everything else that changes the keys and
// values they write: the shape of the model, norm and rope, the dtype of the arithmetic and the
// layout of blocks. How a checkpoint is cut into files does not count, nor do tensors that the
// model does not read.
#pragma once

#include <map>
#include <string>

#include "base/hash.h"
#include "kernels/tensor.h"
#include "model/checkpoint/config.h"
#include "model/checkpoint/safetensors.h"

namespace chorale {

// Tensor name -> DigestOfTensor.
using TensorDigests = std::map<std::string, Digest>;

Digest DigestOfTensor(const Tensor& tensor);
Digest DigestOfBase(const ModelConfig& config, kernels::DType dtype, const TensorDigests& tensors);
// Of a base with an adapter on it.
Digest DigestOfModule(const Digest& base, const Digest& adapter);

}  // namespace chorale
