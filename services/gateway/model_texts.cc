#include "services/gateway/model_texts.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "process/log.h"

namespace chorale {
namespace {

constexpr size_t kTextsMax = 64;     // models whose texts are kept
constexpr size_t kWarningsMax = 64;  // that are told once
constexpr absl::Duration kRetry = absl::Seconds(1);

}  // namespace

std::shared_ptr<ModelTexts::Entry> ModelTexts::Find(Key key) {
  std::lock_guard lock(mutex_);
  if (texts_.size() >= kTextsMax && !texts_.contains(key)) {
    texts_.erase(std::min_element(texts_.begin(), texts_.end(), [](const auto& a, const auto& b) {
      return a.second->used_at < b.second->used_at;
    }));
  }
  std::shared_ptr<Entry>& entry = texts_[std::move(key)];
  if (entry == nullptr) entry = std::make_shared<Entry>();
  entry->used_at = ++uses_;
  return entry;
}

absl::StatusOr<std::shared_ptr<const ModelText>> ModelTexts::Get(const std::string& folder,
                                                                 const std::string& text_folder,
                                                                 const Digest& version) {
  const std::shared_ptr<Entry> entry = Find({folder, text_folder, version});
  std::lock_guard lock(entry->mutex);
  if (entry->text != nullptr) return entry->text;
  if (absl::Now() < entry->retry_at) return entry->failure;
  absl::StatusOr<std::shared_ptr<const ModelText>> loaded = ModelText::Load(folder, text_folder);
  if (!loaded.ok()) {
    entry->failure = loaded.status();
    entry->retry_at = absl::Now() + kRetry;
  } else if ((*loaded)->has_tokenizer()) {  // a folder that is not there yet is looked for again
    entry->text = *loaded;
  }
  return loaded;
}

void ModelTexts::Warn(const std::string& message) {
  std::lock_guard lock(mutex_);
  if (warned_.size() < kWarningsMax && warned_.insert(message).second) LogWarning(message);
}

}  // namespace chorale
