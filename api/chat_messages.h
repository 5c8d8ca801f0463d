// The messages of a chat as chat templates expect them.
//
// Clients send OpenAI's wire form, where the arguments of a call are a string of JSON and a message
// with calls may have no content. Templates are written for the reference library's form: arguments
// are an object, content is a string.
#pragma once

#include "absl/status/status.h"
#include "base/json.h"

namespace chorale {

// Changes a list of messages in place: arguments that are strings become what they say; no content,
// or null, of an assistant's message becomes "". InvalidArgument names the field: messages that are
// no list of objects, or arguments that are no JSON object.
absl::Status ToTemplateForm(OrderedJson& messages);

}  // namespace chorale
