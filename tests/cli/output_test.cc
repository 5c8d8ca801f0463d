#include "cli/output.h"

#include <gtest/gtest.h>

namespace chorale::cli {
namespace {

TEST(OutputTest, AlignsColumnsWithoutTrailingSpaces) {
  EXPECT_EQ(Table({{"NAME", "PID", ""}, {"decode-0", "7"}, {"r", "12345", "x"}}),
            "NAME      PID\n"
            "decode-0  7\n"
            "r         12345  x\n");
  EXPECT_EQ(Table({}), "");
}

TEST(OutputTest, ShowsDurationsInTheUnitThatFits) {
  EXPECT_EQ(Readable(absl::Microseconds(1530)), "1.5 ms");
  EXPECT_EQ(Readable(absl::Milliseconds(2340)), "2.34 s");
  EXPECT_EQ(Readable(absl::Seconds(200)), "3 min 20 s");
  EXPECT_EQ(Readable(absl::Hours(25)), "25 h 0 min");
}

TEST(OutputTest, ShowsBytesInTheUnitThatFits) {
  EXPECT_EQ(ReadableBytes(0), "0 B");
  EXPECT_EQ(ReadableBytes(1023), "1023 B");
  EXPECT_EQ(ReadableBytes(1536), "1.5 KiB");
  EXPECT_EQ(ReadableBytes(int64_t{3} << 29), "1.5 GiB");
  EXPECT_EQ(ReadableBytes(int64_t{1} << 52), "4096.0 TiB");
}

}  // namespace
}  // namespace chorale::cli
