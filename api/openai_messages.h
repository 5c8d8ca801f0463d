// The conversation of an OpenAI chat request: messages, tools and what else a template reads.
//
// Beyond OpenAI's fields the leading messages may carry "public": true: their K/V may be shared by
// all tenants. No template sees the mark.
#pragma once

#include "absl/status/statusor.h"
#include "api/completion.h"
#include "base/json.h"

namespace chorale {

// The chat of a request, whose `body` is a JSON object; what is taken is moved out of it. Content
// parts become one string. InvalidArgument begins with the field at fault.
absl::StatusOr<Chat> ReadChat(OrderedJson& body);

}  // namespace chorale
