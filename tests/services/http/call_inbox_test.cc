#include "services/http/call_inbox.h"

#include <string>

#include <gtest/gtest.h>

namespace chorale {
namespace {

CompletionChunk Chunk(const std::string& text) { return {.text = text}; }

TEST(CallInbox, WakesTheReaderOnceForWhatWaitsTogether) {
  CallInbox inbox(1000);
  EXPECT_TRUE(inbox.Push(Chunk("a")));
  EXPECT_FALSE(inbox.Push(Chunk("b")));
  CallInbox::Contents contents = inbox.Take();
  ASSERT_EQ(contents.chunks.size(), 2u);
  EXPECT_EQ(contents.chunks[1].text, "b");
  EXPECT_FALSE(contents.end);
  EXPECT_TRUE(inbox.Push(Chunk("c")));
  EXPECT_TRUE(inbox.End(absl::UnavailableError("lost")));
  contents = inbox.Take();
  EXPECT_EQ(contents.chunks.size(), 1u);
  EXPECT_EQ(contents.end, absl::UnavailableError("lost"));
}

TEST(CallInbox, DropsEverythingOnceItOverflows) {
  CallInbox inbox(1000);
  inbox.Push(Chunk(std::string(600, 'a')));
  EXPECT_FALSE(inbox.Take().overflowed);
  inbox.Push(Chunk(std::string(600, 'a')));
  EXPECT_TRUE(inbox.Push(Chunk(std::string(600, 'a'))));
  const CallInbox::Contents contents = inbox.Take();
  EXPECT_TRUE(contents.overflowed);
  EXPECT_TRUE(contents.chunks.empty());
  EXPECT_FALSE(inbox.Push(Chunk("b")));
  EXPECT_TRUE(inbox.Take().chunks.empty());
}

}  // namespace
}  // namespace chorale
