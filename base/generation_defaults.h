// What a model's files say of the sampling of requests that do not say it themselves.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace chorale {

// Most strings that end a text, and most bytes of one: of a request and of a model's files alike.
inline constexpr size_t kStopStringsMax = 16;
inline constexpr size_t kStopBytesMax = 1024;

struct GenerationDefaults {
  std::optional<double> temperature;  // 0: greedy
  std::optional<int> top_k;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<int> max_tokens;
  std::vector<std::string> stop;

  bool operator==(const GenerationDefaults&) const = default;
};

}  // namespace chorale
