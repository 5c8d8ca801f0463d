// Names that users choose, in checks and in messages.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace chorale {

// Longest name of a model, in bytes.
inline constexpr size_t kNameBytesMax = 128;

// 1 to kNameBytesMax printable ASCII characters, no blanks: what every log, terminal and URL shows
// as it is.
bool IsName(std::string_view name);

// "a, b, c", and from the 21st on only how many more there are: a message has to fit a header.
std::string ListNames(const std::vector<std::string>& names);

}  // namespace chorale
