// Chat messages to prompt text, by the Jinja template that a model ships in tokenizer_config.json.
//
// The environment is that of transformers: Jinja2's immutable sandbox with trim_blocks,
// lstrip_blocks, loop controls, generation blocks, its tojson, raise_exception and strftime_now
// (text/jinja). Not known, and refused by name: include, import, extends, autoescape of true,
// filters that are random or write prose (random, pprint, urlize, wordwrap), str.encode,
// str.isidentifier, str.maketrans, str.translate, and what integers have beside their operators
// (bit_length, to_bytes, ...). Generators are computed at once: a loop that a break leaves has
// taken all of one, where Python leaves the rest. A statement is refused when the template is
// parsed, a name when it is used. Rendering is bounded in output bytes and in steps, so that no
// template can hang or exhaust a server.
//
// A ChatTemplate is immutable after Parse and safe to share between threads.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/json.h"

namespace chorale {

class ChatTemplate {
 public:
  // InvalidArgument with line number for a syntax error; Unimplemented naming an unknown feature.
  static absl::StatusOr<std::unique_ptr<const ChatTemplate>> Parse(std::string_view source);
  ~ChatTemplate();

  // Renders with the variables of `context`, a JSON object: messages, tools, add_generation_prompt,
  // bos_token, eos_token and whatever else the template reads. raise_exception('...') in the
  // template becomes InvalidArgument with its message. Objects keep the order
  // of their keys, as tojson must print them.
  absl::StatusOr<std::string> Render(const nlohmann::ordered_json& context) const;

  // Whether the word is a string or a name of the template's code, as the name of a role it knows.
  bool Mentions(std::string_view word) const;

 private:
  struct Program;
  explicit ChatTemplate(std::unique_ptr<const Program> program);
  std::unique_ptr<const Program> program_;
};

}  // namespace chorale
