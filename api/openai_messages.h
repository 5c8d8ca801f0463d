// The conversation of an OpenAI chat request: messages, tools and what else a template reads.
//
// Beyond OpenAI's fields the leading messages may carry "public": true: their K/V may be shared by
// all tenants. No template sees the mark.
#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "chorale/v1/inference.pb.h"

namespace chorale {

// Fills in `chat` and `public_messages`. `body` is the whole request, already known to be a JSON
// object within the depth limit. Keys keep their order, since templates print them. Content parts
// become one string. InvalidArgument begins with the field at fault.
absl::Status ReadChat(std::string_view body, v1::GenerateRequest& request);

}  // namespace chorale
