// Somebody who was last known to have leading blocks of a prompt.
#pragma once

#include <string>

namespace chorale {

struct BlockHolder {
  std::string address;  // host:port or unix:path, where Blocks is served: a worker or a store
  int blocks = 0;       // the first so many of the prompt

  bool operator==(const BlockHolder&) const = default;
};

}  // namespace chorale
