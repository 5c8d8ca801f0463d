// Small templates of every kind against what Jinja2 makes of them (golden/snippets.py).
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "text/chat_template.h"

namespace chorale {
namespace {

constexpr char kGolden[] = "text/jinja/golden/snippets.json";
constexpr size_t kSnippetsMin = 300;  // that give a text
constexpr double kRefusedMax = 0.02;  // of these

absl::StatusOr<std::string> Render(const std::string& source, const OrderedJson& context) {
  auto parsed = ChatTemplate::Parse(source);
  if (!parsed.ok()) return parsed.status();
  return (*parsed)->Render(context);
}

TEST(SnippetsTest, GiveWhatJinja2GivesOrAreRefusedByName) {
  std::ifstream file(kGolden);
  ASSERT_TRUE(file.good()) << kGolden;
  const OrderedJson cases = OrderedJson::parse(file);
  const OrderedJson& context = cases[0]["context"];
  size_t texts = 0;
  std::vector<std::string> refused;
  for (size_t i = 1; i < cases.size(); ++i) {
    const std::string source = cases[i]["template"];
    const OrderedJson& expected = cases[i]["expected"];
    const absl::StatusOr<std::string> text = Render(source, context);
    if (expected.is_null()) {
      EXPECT_FALSE(text.ok()) << source << "\ngives " << *text;
      continue;
    }
    ++texts;
    if (absl::IsUnimplemented(text.status())) {
      refused.push_back(source + ": " + std::string(text.status().message()));
      continue;
    }
    ASSERT_TRUE(text.ok() || text.status().code() == absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE(text.ok()) << source << "\n" << text.status();
    if (text.ok()) {
      EXPECT_EQ(*text, expected.get<std::string>()) << source;
    }
  }
  EXPECT_GE(texts, kSnippetsMin);
  EXPECT_LE(static_cast<double>(refused.size()), kRefusedMax * static_cast<double>(texts));
  for (const std::string& what : refused) std::cout << "refused by name: " << what << "\n";
}

}  // namespace
}  // namespace chorale
