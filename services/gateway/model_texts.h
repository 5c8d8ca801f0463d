// ModelTexts: the texts of the models in use, read once.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <tuple>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "api/model_text.h"
#include "base/hash.h"

namespace chorale {

// By their folders. Thread safe; loading happens in the caller's thread.
class ModelTexts {
 public:
  // Those used last are kept; what cannot be read is tried again after a second. Files are read
  // again when the worker that serves the model has read others: `version` is the digest of what it
  // read (model/checkpoint/text_digest.h).
  absl::StatusOr<std::shared_ptr<const ModelText>> Get(const std::string& folder,
                                                       const std::string& text_folder,
                                                       const Digest& version);

  // Logs a warning once.
  void Warn(const std::string& message);

 private:
  // Its mutex is held while it is read: whoever needs the same model waits for it instead of reading
  // it twice.
  struct Entry {
    std::mutex mutex;
    std::shared_ptr<const ModelText> text;       // null: not read; under mutex
    absl::Status failure;                        // of the last attempt; under mutex
    absl::Time retry_at = absl::InfinitePast();  // under mutex
    uint64_t used_at = 0;                        // counts uses of any; under mutex_
  };
  using Key = std::tuple<std::string, std::string, Digest>;
  std::shared_ptr<Entry> Find(Key key);

  std::mutex mutex_;
  absl::flat_hash_map<Key, std::shared_ptr<Entry>> texts_;  // under mutex_
  uint64_t uses_ = 0;                                       // under mutex_
  std::set<std::string> warned_;                            // under mutex_
};

}  // namespace chorale
