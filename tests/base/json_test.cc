#include "base/json.h"

#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

namespace chorale {
namespace {

TEST(ParseJson, NamesTheDocumentOfASyntaxError) {
  const absl::Status status = ParseJson("{\"a\": }", "config.json").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()).find("config.json: not valid JSON"), 0u);
}

TEST(ParseJson, RefusesDeepNesting) {
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  const absl::Status status = ParseJson(deep, "body").status();
  EXPECT_EQ(std::string(status.message()), "body: nested deeper than 128 levels");
}

TEST(ParseJson, AcceptsNestingAtTheLimit) {
  const std::string deep = std::string(kJsonDepthMax, '[') + std::string(kJsonDepthMax, ']');
  EXPECT_TRUE(ParseJson(deep, "body").ok());
}

TEST(ParseJsonFile, NamesAMissingFile) {
  const absl::Status status = ParseJsonFile("/nonexistent/config.json").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_NE(std::string(status.message()).find("/nonexistent/config.json"), std::string::npos);
}

TEST(ParseJsonFile, RefusesAFileOverTheLimit) {
  const std::string path = testing::TempDir() + "/chorale_json_test." + std::to_string(getpid());
  std::ofstream(path) << "[1, 2, 3]";
  EXPECT_TRUE(ParseJsonFile(path).ok());
  EXPECT_EQ(ParseJsonFile(path, 4).status().code(), absl::StatusCode::kInvalidArgument);
  std::filesystem::remove(path);
}

TEST(ParseOrderedJson, KeepsTheOrderOfKeysAndBoundsTheirNumber) {
  EXPECT_EQ(ParseOrderedJson(R"({"b": 1, "a": {"z": 1, "y": 2}})", "x")->dump(),
            R"({"b":1,"a":{"z":1,"y":2}})");
  std::string wide = "[{";
  for (size_t i = 0; i <= kOrderedKeysMax; ++i) wide += "\"" + std::to_string(i) + "\":0,";
  wide.back() = '}';
  const absl::Status status = ParseOrderedJson(wide + "]", "messages").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("more than 256 keys"), std::string::npos) << status;
}

TEST(JsonFields, ReadTypesAndFallbacks) {
  const Json object = {{"i", 3},   {"whole", 4.0}, {"d", 0.5},
                       {"s", "x"}, {"b", true},    {"n", nullptr}};
  EXPECT_EQ(*JsonInt(object, "i"), 3);
  EXPECT_EQ(*JsonInt(object, "whole"), 4);
  EXPECT_EQ(*JsonInt(object, "absent", 7), 7);
  EXPECT_EQ(*JsonInt(object, "n", 7), 7);
  EXPECT_EQ(*JsonNumber(object, "d"), 0.5);
  EXPECT_EQ(*JsonNumber(object, "i"), 3.0);
  EXPECT_EQ(*JsonString(object, "s"), "x");
  EXPECT_EQ(*JsonString(object, "absent", "y"), "y");
  EXPECT_TRUE(*JsonBool(object, "b", false));
}

TEST(JsonFields, SayWhatIsWrong) {
  const Json object = {{"i", "three"}, {"d", 0.5}, {"big", 18446744073709551615ull}};
  EXPECT_EQ(JsonInt(object, "i").status().message(),
            "field 'i': expected an integer, found \"three\"");
  EXPECT_EQ(JsonInt(object, "d").status().message(), "field 'd': expected an integer, found 0.5");
  EXPECT_FALSE(JsonInt(object, "big").ok());
  EXPECT_EQ(JsonInt(object, "x").status().message(), "field 'x' is missing");
  EXPECT_FALSE(JsonBool(object, "d", true).ok());
  EXPECT_FALSE(JsonString(object, "d", "fallback").ok());
}

TEST(DumpJson, ReplacesInvalidUtf8) { EXPECT_EQ(DumpJson(Json("a\xff")), "\"a\xEF\xBF\xBD\""); }

TEST(JsonExcerpt, CutsNoCharacter) {
  const Json value = std::string(78, 'a') + "\u00e9";
  EXPECT_EQ(JsonExcerpt(value), "\"" + std::string(78, 'a'));  // the 80th byte is within the last one
  EXPECT_EQ(Utf8Prefix("a\u00e9", 3), "a\u00e9");
}

}  // namespace
}  // namespace chorale
