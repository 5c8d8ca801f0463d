#include "services/http/call_inbox.h"

#include <utility>

namespace chorale {

bool CallInbox::Push(CompletionChunk chunk) {
  std::lock_guard lock(mutex_);
  if (overflowed_) return false;
  const bool was_empty = contents_.chunks.empty();
  bytes_ += BytesOf(chunk);
  if (bytes_ > bytes_max_) {
    contents_.chunks.clear();
    contents_.overflowed = overflowed_ = true;
    return true;
  }
  contents_.chunks.push_back(std::move(chunk));
  return was_empty;
}

bool CallInbox::End(absl::Status status) {
  std::lock_guard lock(mutex_);
  contents_.end = std::move(status);
  return true;
}

CallInbox::Contents CallInbox::Take() {
  std::lock_guard lock(mutex_);
  bytes_ = 0;
  return std::exchange(contents_, {});
}

}  // namespace chorale
