// CheckedCopy: copies a block that comes in runs to its place, and says what lies there.
//
// The checksum is taken of the copy, run by run while it is still in the cache: what is verified is
// what will be used, also when the source changes meanwhile, as shared memory may. Costs a little
// more than a plain copy (bench/transfer.cc). Not thread safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace chorale {

class CheckedCopy {
 public:
  CheckedCopy();
  ~CheckedCopy();
  CheckedCopy(CheckedCopy&&) noexcept;
  CheckedCopy& operator=(CheckedCopy&&) noexcept;

  // Copies the next bytes of the block to `to`, which has room for them.
  void Append(std::byte* to, std::span<const std::byte> bytes);
  // Checksum64 of all that was copied; the next block may begin.
  uint64_t Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace chorale
