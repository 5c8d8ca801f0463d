// Replies of the OpenAI API, as JSON, from Chorale's chunks and statuses. Pure text: no sockets.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "api/completion.h"
#include "api/openai_request.h"
#include "base/json.h"
#include "orchestrator/cluster_view.h"

namespace chorale {

// What all objects of one reply have in common.
struct ReplyHead {
  OpenAiEndpoint endpoint = OpenAiEndpoint::kCompletions;
  std::string id;  // "cmpl-..." or "chatcmpl-..."
  std::string model;
  int64_t created_seconds = 0;  // since the epoch
  bool logprobs = false;
};

// A whole reply, put together from the chunks of a call.
class CompletionReply {
 public:
  // `sequences` is the n of the request.
  CompletionReply(ReplyHead head, int sequences);

  // Chunks of sequences that were not asked for are ignored.
  void Add(const CompletionChunk& chunk);
  std::string Body() const;

 private:
  struct Choice {
    std::string text;
    std::vector<ChosenToken> logprobs;
    std::optional<FinishReason> finish;
  };
  const ReplyHead head_;
  std::vector<Choice> choices_;
  Usage usage_;
};

// A streamed reply: server-sent events, one `data:` line each.
class StreamReply {
 public:
  StreamReply(ReplyHead head, bool include_usage);

  // The events of one chunk; empty when it has nothing to show (part of a code point).
  std::string Events(const CompletionChunk& chunk);
  // The last events, with the usage when it was asked for, and [DONE].
  std::string End() const;

 private:
  struct Sequence {
    int64_t characters = 0;  // code points of the tokens so far, for text_offset
    bool begun = false;
  };
  std::string ChatEvents(const CompletionChunk& chunk, Sequence& sequence);
  std::string Event(Json choice) const;

  const ReplyHead head_;
  const bool include_usage_;
  absl::flat_hash_map<int, Sequence> sequences_;
  Usage usage_;
};

// {"error": {"message", "type", "param", "code"}}; `param` is the field that the message begins
// with, if it does.
std::string ErrorBody(const absl::Status& status);
// The event by which a stream that has begun reports that it failed.
std::string ErrorEvent(const absl::Status& status);

int HttpStatusOf(const absl::Status& status);
// Seconds for Retry-After; 0: trying again would not help.
int RetryAfterSeconds(const absl::Status& status);

// The object of GET /v1/models, and one element of it.
std::string ModelsBody(const ModelTable& models, int64_t created_seconds);
std::string ModelBody(const ModelEntry& model, int64_t created_seconds);

}  // namespace chorale
