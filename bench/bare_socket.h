// Bytes over plain sockets, with no gRPC: what the kernel alone takes to move them. Between
// processes of one bench; addresses as gRPC writes them, unix:PATH or 127.0.0.1:PORT
// (port 0: a free one).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <thread>

#include "rpc/shared_region.h"

namespace chorale::bench {

// Serves ranges of `bytes` to connections, each by a thread of its own, until the process ends.
class BareSender {
 public:
  BareSender(const std::string& address, std::span<const std::byte> bytes);
  ~BareSender();
  BareSender(const BareSender&) = delete;

  const std::string& address() const { return address_; }

 private:
  void Accept();

  const std::span<const std::byte> bytes_;
  std::string address_;
  FileDescriptor listener_;
  std::thread thread_;
};

// One connection that reads the sender's bytes from `offset` on.
class BareReceiver {
 public:
  BareReceiver(const std::string& address, int64_t offset, int64_t bytes);

  // Fills all of `to` with the next bytes.
  void Read(std::span<std::byte> to);

 private:
  FileDescriptor socket_;
};

}  // namespace chorale::bench
