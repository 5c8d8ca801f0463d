// CallInbox: what a call has said and its connection has not yet heard. The gateway's threads put,
// the connection takes; the bound keeps a producer from running away from a busy connection.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "api/completion.h"

namespace chorale {

// Thread safe.
class CallInbox {
 public:
  explicit CallInbox(int64_t bytes_max) : bytes_max_(bytes_max) {}

  // Both return true when the reader must be told to Take: always at the end, else when nothing
  // was waiting before.
  bool Push(CompletionChunk chunk);
  bool End(absl::Status status);

  struct Contents {
    std::vector<CompletionChunk> chunks;
    std::optional<absl::Status> end;  // after the chunks
    bool overflowed = false;          // chunks were dropped; none are given any more
  };
  Contents Take();

 private:
  const int64_t bytes_max_;
  std::mutex mutex_;
  Contents contents_;        // under mutex_
  int64_t bytes_ = 0;        // of contents_.chunks; under mutex_
  bool overflowed_ = false;  // for good; under mutex_
};

}  // namespace chorale
