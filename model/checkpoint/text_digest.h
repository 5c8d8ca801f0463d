// Which texts a model was loaded with: a digest of its files beside the weights.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "base/hash.h"

namespace chorale {

// Of what is read from the two folders of a served model (docs/CHECKPOINTS.md): the tokenizer, its
// settings, chat templates and generation settings. Files that are absent count as absent.
// Unavailable: one cannot be read.
absl::StatusOr<Digest> TextDigest(const std::string& folder, const std::string& text_folder);

}  // namespace chorale
