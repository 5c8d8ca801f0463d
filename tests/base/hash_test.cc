#include "base/hash.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace chorale {
namespace {

TEST(Digest, IsSha256) {
  DigestBuilder builder;
  const std::string text = "abc";
  builder.AddRaw(std::as_bytes(std::span(text)));
  EXPECT_EQ(builder.Finish().ToHex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");  // FIPS 180-2, B.1
}

TEST(Digest, FramesStringsByTheirLength) {
  DigestBuilder a;
  DigestBuilder b;
  EXPECT_NE(a.AddString("ab").AddString("c").Finish(), b.AddString("a").AddString("bc").Finish());
}

TEST(Digest, RoundTripsThroughBytes) {
  DigestBuilder builder;
  const Digest digest = builder.AddInt(42).Finish();
  EXPECT_EQ(*Digest::FromBytes(digest.AsBytes()), digest);
  EXPECT_EQ(digest.Short(), digest.ToHex().substr(0, 12));
}

TEST(Digest, RefusesAnotherLength) {
  const absl::Status status = Digest::FromBytes("short").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "a digest has 32 bytes, this one has 5");
}

TEST(Checksum, ChangesWithEveryBit) {
  std::vector<std::byte> bytes(100);
  const uint64_t before = Checksum64(bytes);
  for (size_t i = 0; i < 8 * bytes.size(); ++i) {
    bytes[i / 8] ^= std::byte(1 << (i % 8));
    EXPECT_NE(Checksum64(bytes), before) << "bit " << i;
    bytes[i / 8] ^= std::byte(1 << (i % 8));
  }
}

}  // namespace
}  // namespace chorale
