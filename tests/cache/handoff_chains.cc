#include "tests/cache/handoff_chains.h"

#include "base/hash.h"
#include "base/random.h"

namespace chorale {

const HandoffChains& TheHandoffChains() {
  static const HandoffChains chains = [] {
    HandoffChains c;
    for (int chain = 0; chain < HandoffChains::kChains; ++chain) {
      for (int i = 0; i < HandoffChains::kLength; ++i) {
        c.keys[chain][i].bytes[0] = static_cast<uint8_t>(chain + 1);
        c.keys[chain][i].bytes[1] = static_cast<uint8_t>(i + 1);
        for (int b = 0; b < 32; ++b) {
          c.bytes[chain][i][b] = static_cast<std::byte>(RandomBits(
              static_cast<uint64_t>(chain), static_cast<uint64_t>(i), static_cast<uint64_t>(b)));
        }
        c.checksums[chain][i] = Checksum64(c.bytes[chain][i]);
      }
    }
    return c;
  }();
  return chains;
}

}  // namespace chorale
