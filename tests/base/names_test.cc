#include "base/names.h"

#include <gtest/gtest.h>

namespace chorale {
namespace {

TEST(NamesTest, ANameIsWhatEveryTerminalShowsAsItIs) {
  for (const char* name : {"a", "Qwen/Qwen3-8B:lora", "math_2", "~"}) EXPECT_TRUE(IsName(name));
  for (const char* name : {"", " ", "a b", "a\nb", "\x1b[31m", "\xc3\xa9", "\x7f"}) {
    EXPECT_FALSE(IsName(name)) << name;
  }
  EXPECT_TRUE(IsName(std::string(kNameBytesMax, 'n')));
  EXPECT_FALSE(IsName(std::string(kNameBytesMax + 1, 'n')));
}

TEST(NamesTest, AListEndsWithHowManyMoreThereAre) {
  EXPECT_EQ(ListNames({}), "");
  EXPECT_EQ(ListNames({"a", "b"}), "a, b");
  const std::string list = ListNames(std::vector<std::string>(23, "n"));
  EXPECT_EQ(list.substr(list.size() - 15), "n, n and 3 more");
}

}  // namespace
}  // namespace chorale
