// The receiving process of bench/transfer: pulls the sender's blocks into a pool of its own.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bench/transfer_sender.h"
#include "rpc/channels.h"
#include "rpc/shared_region.h"

namespace chorale::bench {

// Private memory on huge pages, all of it there.
class HugeMemory {
 public:
  explicit HugeMemory(int64_t bytes);
  ~HugeMemory();
  HugeMemory(const HugeMemory&) = delete;

  std::span<std::byte> bytes() const { return bytes_; }

 private:
  std::span<std::byte> bytes_;
};

// One way from the sender's memory to ours.
struct TransferWay {
  std::string address;                   // of the sender's gRPC
  const MappedRegion* region = nullptr;  // bytes are read from it, if there is one
  int streams = 1;                       // side by side, each on a connection of its own
};

class TransferReceiver {
 public:
  // Takes blocks into `pool`, which has room for all.
  TransferReceiver(const TransferSize& size, std::span<std::byte> pool)
      : size_(size), pool_(pool) {}

  // Pulls every block once and returns how long it took. With `verify`, each block in our pool is
  // compared with its checksum. A block that is missing or wrong is a bug.
  double PullSeconds(const TransferWay& way, bool verify);
  // Copies all blocks from `from`, always the same, in this process.
  double CopySeconds(std::span<const std::byte> from, bool verify);
  // One memcpy of everything.
  double MemcpySeconds(std::span<const std::byte> from);

 private:
  class Stream;

  const TransferSize size_;
  const std::span<std::byte> pool_;
  std::vector<uint64_t> copied_;  // checksums of CopySeconds's source
  Channels channels_;
};

}  // namespace chorale::bench
