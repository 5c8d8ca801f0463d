// The limits of the wire, in one place.
#pragma once

#include <cstddef>
#include <cstdint>

namespace chorale {

// Largest message either side accepts: a request of a million tokens fits, a hundred megabytes not.
inline constexpr int kMessageBytesMax = 16 << 20;

// Payload of one KvFrame. Between 256 KiB and 1 MiB a raw byte stream moves the most.
inline constexpr int64_t kFrameBytesMax = 1 << 20;
// All else in it: pieces take far more memory than they have bytes.
inline constexpr size_t kFrameHeaderBytesMax = 512 << 10;
// Blocks of one KvFrame that lie in shared memory.
inline constexpr int kFramePiecesMax = 64;

// What a stream may have waiting to be written before its producer pauses or is cut off.
inline constexpr int64_t kStreamBytesMax = 8 << 20;

// Pings on connections with calls; servers permit them (rpc/server.cc), or long streams would die
// of too_many_pings.
inline constexpr int kKeepaliveMs = 3'000;  // a hung peer is lost after both times
inline constexpr int kKeepaliveTimeoutMs = 3'000;

// One attempt to connect. A busy machine takes much longer than an idle one.
inline constexpr int kConnectTimeoutMs = 3'000;

}  // namespace chorale
