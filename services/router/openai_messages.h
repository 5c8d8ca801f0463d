// The conversation of an OpenAI chat request: messages, tools and what else a template reads.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "chorale/v1/inference.pb.h"

namespace chorale {

// `body` is the whole request, already known to be a JSON object within the depth limit. Keys keep
// their order, since templates print them. Content parts become one string. InvalidArgument begins
// with the field at fault.
absl::StatusOr<v1::Chat> ReadChat(std::string_view body);

}  // namespace chorale
