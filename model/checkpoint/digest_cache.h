// Digests of float tensors that were computed before, kept by the identity of the files they lie
// in.
//
// Hashing gigabytes takes seconds at every start. What was computed is written to FOLDER/ID.json,
// where ID stands for path, device, inode, size and times of change of the checkpoint's files: a
// file that was touched is another file. A cache that cannot be read or written is none at all.
#pragma once

#include <string>

#include "model/checkpoint/digest.h"
#include "model/checkpoint/safetensors.h"

namespace chorale {

// The digests that are known of `checkpoint`; none when `folder` is empty.
TensorDigests ReadDigests(const std::string& folder, const Checkpoint& checkpoint);
// Replaces what is known.
void WriteDigests(const std::string& folder, const Checkpoint& checkpoint,
                  const TensorDigests& digests);

}  // namespace chorale
