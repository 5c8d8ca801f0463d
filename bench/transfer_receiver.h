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
  std::string address;                   // of the sender
  bool grpc = true;                      // or a bare socket
  const MappedRegion* region = nullptr;  // bytes are read from it, if there is one
  int streams = 1;                       // side by side, each on a connection of its own
};

class TransferReceiver {
 public:
  // Takes blocks into `pool`, which has room for all. `source`: what they hold, in this process.
  TransferReceiver(const TransferSize& size, std::span<std::byte> pool,
                   std::span<const std::byte> source);

  // Pulls every block once and returns how long it took. With `verify`, each block in our pool is
  // compared with its checksum. A block that is missing or wrong is a bug.
  double PullSeconds(const TransferWay& way, bool verify);
  // Copies all blocks from `source`.
  double CopySeconds(bool verify);
  // One memcpy of everything.
  double MemcpySeconds();

 private:
  class Stream;

  std::span<std::byte> Place(int index) const;  // of a block in the pool
  double BareSeconds(const TransferWay& way, bool verify);

  const TransferSize size_;
  const std::span<std::byte> pool_;
  const std::span<const std::byte> source_;
  std::vector<uint64_t> checksums_;  // of the blocks
  Channels channels_;
};

}  // namespace chorale::bench
