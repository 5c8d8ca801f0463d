// A TCP proxy between two processes that speak gRPC: it passes every byte on as it is, until it is
// told to flip one bit of a large message on its way.
//
// It follows HTTP/2's frames and gRPC's messages and flips within a message, behind what precedes
// its payload: framing that breaks would be found by the transport, not by us.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "rpc/shared_region.h"

namespace chorale {

class FlipProxy {
 public:
  enum class Toward { kClient, kServer };

  FlipProxy();
  ~FlipProxy();

  // Where clients connect: 127.0.0.1:port.
  const std::string& address() const { return address_; }
  // Where connections lead from now on: "unix:PATH" or "127.0.0.1:port".
  void Forward(const std::string& target);
  // Flips one bit of the next message of at least kMessageBytesMin; `seed` chooses which.
  void FlipNext(Toward toward, uint64_t seed);
  // How many bits were flipped.
  int flips() const { return flips_; }

  static constexpr uint32_t kMessageBytesMin = 8192;

 private:
  // One direction of a connection.
  struct Flow {
    struct Message {  // of one HTTP/2 stream
      std::array<uint8_t, 5> prefix{};
      size_t prefix_bytes = 0;
      uint32_t at = 0;
      uint32_t flip_at = 0;  // 0: nowhere
    };
    Toward toward;
    int from = -1;
    int to = -1;
    size_t preface_left = 0;
    std::array<uint8_t, 9> frame_head{};
    size_t frame_head_bytes = 0;
    uint32_t frame_left = 0;
    std::map<uint32_t, Message> messages;
  };
  struct Connection {
    FileDescriptor client;
    FileDescriptor server;
    std::array<Flow, 2> flows;
    bool open = true;
  };

  void Run();
  void Accept();
  bool Pump(Flow& flow);
  void Follow(Flow& flow, std::span<uint8_t> bytes);
  void FollowData(Flow& flow, uint8_t& byte);

  std::string address_;
  FileDescriptor listener_;
  FileDescriptor stop_;                // an eventfd
  std::list<Connection> connections_;  // the thread's
  std::mutex mutex_;
  std::string target_;               // under mutex_
  bool armed_ = false;               // under mutex_
  Toward toward_ = Toward::kClient;  // under mutex_
  uint64_t seed_ = 0;                // under mutex_
  std::atomic<int> flips_ = 0;
  std::thread thread_;
};

}  // namespace chorale
