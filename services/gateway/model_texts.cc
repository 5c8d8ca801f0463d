#include "services/gateway/model_texts.h"

#include "base/status_macros.h"
#include "process/log.h"

namespace chorale {
namespace {

constexpr size_t kTextsMax = 64;     // models whose texts are kept
constexpr size_t kWarningsMax = 64;  // that are told once

}  // namespace

absl::StatusOr<std::shared_ptr<const ModelText>> ModelTexts::Get(const std::string& folder,
                                                                 const std::string& text_folder,
                                                                 const Digest& version) {
  // Loading under the lock: whoever needs the same model waits for it instead of loading it twice.
  std::lock_guard lock(mutex_);
  Entry& entry = texts_[std::pair(folder, text_folder)];
  if (entry.text == nullptr || entry.version != version) {
    ASSIGN_OR_RETURN(entry.text, ModelText::Load(folder, text_folder));
    entry.version = version;
  }
  std::shared_ptr<const ModelText> text = entry.text;
  // A folder that is not there yet, or no more, is looked for again.
  const bool lasting = text->has_tokenizer() && texts_.size() <= kTextsMax;
  if (!lasting) texts_.erase(std::pair(folder, text_folder));
  return text;
}

void ModelTexts::Warn(const std::string& message) {
  std::lock_guard lock(mutex_);
  if (warned_.size() < kWarningsMax && warned_.insert(message).second) LogWarning(message);
}

}  // namespace chorale
