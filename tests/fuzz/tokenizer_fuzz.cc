// Any bytes as a tokenizer.json. One that loads must encode and decode, and its text must be UTF-8.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "text/detokenizer.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace {

constexpr char kText[] =
    "The theory, I'll say:\r\n\t  123 na\xc3\xafve \xe6\x9d\xb1\xe4\xba\xac \xf0\x9f\x98\x80</s> "
    "\xe2\x96\x81the thethethethethethethethethethethethethethethethethethethethethethethe  ";

void Require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto tokenizer =
      chorale::Tokenizer::Parse(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!tokenizer.ok()) return 0;
  const auto ids = (*tokenizer)->Encode(kText, /*add_special_tokens=*/true);
  if (!ids.ok()) return 0;
  chorale::Detokenizer detokenizer(**tokenizer, /*skip_special_tokens=*/true);
  std::string streamed;
  for (chorale::TokenId id : *ids) {
    Require(id >= 0 && id < (*tokenizer)->vocab_size());
    streamed += detokenizer.Add(id);
  }
  streamed += detokenizer.Flush();
  Require(!chorale::FindInvalidUtf8(streamed));
  Require(streamed == (*tokenizer)->Decode(*ids, /*skip_special_tokens=*/true));
  return 0;
}
