// ModelTexts: the texts of the models in use, read once.
#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "api/model_text.h"
#include "base/hash.h"

namespace chorale {

// By their folders. Thread safe; loading happens in the caller's thread.
class ModelTexts {
 public:
  // Files are read again when the worker that serves the model has read others: `version` is the
  // digest of what it read (model/text_digest.h).
  absl::StatusOr<std::shared_ptr<const ModelText>> Get(const std::string& folder,
                                                       const std::string& text_folder,
                                                       const Digest& version);

  // Logs a warning once.
  void Warn(const std::string& message);

 private:
  struct Entry {
    Digest version;
    std::shared_ptr<const ModelText> text;
  };
  std::mutex mutex_;
  absl::flat_hash_map<std::pair<std::string, std::string>, Entry> texts_;  // under mutex_
  std::set<std::string> warned_;  // under mutex_
};

}  // namespace chorale
