#include "text/tokenizer.h"

#include <algorithm>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Json ByteLevel() { return Json::parse(ByteTokenizerJson()); }

// In the style of Llama-2: spaces are ▁, characters without a piece are bytes.
Json SentencePiece() {
  return Json::parse(R"({
    "added_tokens": [
      {"id": 0, "content": "<unk>", "special": true, "normalized": false},
      {"id": 1, "content": "<s>", "special": true, "normalized": false},
      {"id": 2, "content": "</s>", "special": true, "normalized": false}],
    "normalizer": {"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    "pre_tokenizer": null,
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
    "decoder": {"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
      "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x0A>": 3, "<0xC3>": 4, "<0xA9>": 5,
                "▁": 6, "t": 7, "h": 8, "e": 9, "th": 10, "the": 11, "▁the": 12},
      "merges": [["t", "h"], ["th", "e"], "▁ the"]}})");
}

Json Patched(const Json& json, const std::string& patch) { return json.patch(Json::parse(patch)); }

std::unique_ptr<const Tokenizer> Parsed(const Json& json) {
  auto tokenizer = Tokenizer::Parse(json.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

std::vector<TokenId> Ids(const Tokenizer& tokenizer, std::string_view text, bool special = false) {
  auto ids = tokenizer.Encode(text, special);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return *std::move(ids);
}

TEST(TokenizerTest, MergesBytes) {
  const auto tokenizer = Parsed(ByteLevel());
  EXPECT_EQ(tokenizer->vocab_size(), 260);
  EXPECT_THAT(Ids(*tokenizer, "the thin"), ElementsAre(257, ' ', 256, 258));
  EXPECT_THAT(Ids(*tokenizer, "é\n"), ElementsAre(0xC3, 0xA9, '\n'));
  EXPECT_EQ(tokenizer->IdOf("the"), 257);
  EXPECT_EQ(tokenizer->IdOf("Ġ"), ' ');
  EXPECT_EQ(tokenizer->IdOf(" "), std::nullopt);
  EXPECT_EQ(tokenizer->PieceOf(' '), "Ġ");
  EXPECT_EQ(tokenizer->BytesOf(' '), " ");
}

TEST(TokenizerTest, GivesNoTextForIdsThatDoNotExist) {
  const auto tokenizer = Parsed(ByteLevel());
  EXPECT_EQ(tokenizer->Decode(std::vector<TokenId>{-1, 257, 260, INT32_MAX, INT32_MIN}, false),
            "the");
  EXPECT_EQ(tokenizer->PieceOf(260), "");
  EXPECT_FALSE(tokenizer->IsSpecial(-1));
}

TEST(TokenizerTest, NamesTheByteThatIsNotUtf8) {
  const auto tokenizer = Parsed(ByteLevel());
  const struct {
    std::string text;
    const char* message;
  } kRefusals[] = {
      {"ab\xff", "at byte 2"},        {"\x80", "at byte 0"},
      {"é\xc3", "at byte 2"},         {"a\xed\xa0\x80", "at byte 1"},     // a surrogate
      {"ab\xc0\x80", "at byte 2"},    {"\xf4\x90\x80\x80", "at byte 0"},  // too large
      {"x\xf0\x9f\x98", "at byte 1"},
  };
  for (const auto& [text, message] : kRefusals) {
    const absl::Status status = tokenizer->Encode(text, false).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
  EXPECT_EQ(tokenizer->Decode(std::vector<TokenId>{0xC3, 'a', 0xFF}, false), "\uFFFDa\uFFFD");
  EXPECT_THAT(Ids(*tokenizer, std::string_view("a\0b", 3)), ElementsAre('a', 0, 'b'));
  EXPECT_THAT(Ids(*tokenizer, ""), ElementsAre());
}

TEST(TokenizerTest, SpeaksSentencePiece) {
  const auto tokenizer = Parsed(SentencePiece());
  EXPECT_EQ(tokenizer->vocab_size(), 13);
  EXPECT_EQ(tokenizer->leading_spaces_stripped(), 1);
  EXPECT_THAT(Ids(*tokenizer, "the the"), ElementsAre(12, 12));
  EXPECT_THAT(Ids(*tokenizer, "the é\n", true), ElementsAre(1, 12, 6, 4, 5, 3));
  EXPECT_EQ(tokenizer->Decode(std::vector<TokenId>{1, 12, 6, 4, 5, 3}, true), "the é\n");
  EXPECT_EQ(tokenizer->Decode(std::vector<TokenId>{1, 12}, false), "<s> the");
  EXPECT_EQ(tokenizer->BytesOf(4), "\xC3");
  EXPECT_EQ(tokenizer->BytesOf(12), " the");
  EXPECT_EQ(tokenizer->PieceOf(4), "<0xC3>");
  // ü has no byte 0xBC in this vocabulary; unknown characters side by side are one token.
  EXPECT_THAT(Ids(*tokenizer, "tüüh"), ElementsAre(6, 7, 0, 8));
  // A text that looks like a byte's piece is characters.
  EXPECT_THAT(Ids(*tokenizer, "<0x0A>"), ElementsAre(6, 0));
}

TEST(TokenizerTest, FusesUnknownCharactersWithinAWordOnly) {
  const Json digits = Patched(SentencePiece(), R"([
    {"op": "replace", "path": "/pre_tokenizer",
     "value": {"type": "Digits", "individual_digits": true}}])");
  EXPECT_THAT(Ids(*Parsed(digits), "tXXh12"), ElementsAre(6, 7, 0, 8, 0, 0));
  const Json apart = Patched(SentencePiece(), R"([
    {"op": "replace", "path": "/model/fuse_unk", "value": false}])");
  EXPECT_THAT(Ids(*Parsed(apart), "tXXh"), ElementsAre(6, 7, 0, 0, 8));
  EXPECT_THAT(Ids(*Parsed(SentencePiece()), "X<unk>X"), ElementsAre(6, 0, 0, 6, 0));
}

TEST(TokenizerTest, DropsUnknownCharactersWithoutAnUnknownToken) {
  const Json none = Patched(SentencePiece(), R"([{"op": "remove", "path": "/model/unk_token"}])");
  EXPECT_THAT(Ids(*Parsed(none), "tXXh"), ElementsAre(6, 10));
}

TEST(TokenizerTest, TakesWholeWordsFirstWhenMergesAreIgnored) {
  const std::string ends = R"({"op": "add", "path": "/model/vocab/hat", "value": 260})";
  EXPECT_THAT(Ids(*Parsed(Patched(ByteLevel(), "[" + ends + "]")), "hat"),
              ElementsAre('h', 'a', 't'));
  const Json ignoring =
      Patched(ByteLevel(),
              "[" + ends + R"(, {"op": "add", "path": "/model/ignore_merges", "value": true}])");
  EXPECT_THAT(Ids(*Parsed(ignoring), "hat"), ElementsAre(260));
}

class AddedTokensTest : public testing::Test {
 protected:
  AddedTokensTest()
      : tokenizer_(Parsed(Patched(ByteLevel(), R"([
          {"op": "replace", "path": "/added_tokens", "value": [
            {"id": 260, "content": "<a>", "special": true},
            {"id": 261, "content": "<a><b>", "special": true},
            {"id": 262, "content": "<l>", "special": true, "lstrip": true},
            {"id": 263, "content": "<r>", "special": true, "rstrip": true},
            {"id": 264, "content": "word", "special": false, "single_word": true},
            {"id": 265, "content": "<c>", "special": false}]}])"))) {}
  std::vector<TokenId> Encoded(std::string_view text) { return Ids(*tokenizer_, text); }

  std::unique_ptr<const Tokenizer> tokenizer_;
};

TEST_F(AddedTokensTest, FindsTheLongest) {
  EXPECT_THAT(Encoded("x<a><b><a><a><b"), ElementsAre('x', 261, 260, 260, '<', 'b'));
  EXPECT_THAT(Encoded("<<a>"), ElementsAre('<', 260));
  EXPECT_EQ(tokenizer_->vocab_size(), 266);
  EXPECT_EQ(tokenizer_->IdOf("<a><b>"), 261);
}

TEST_F(AddedTokensTest, TakesSpacesAlong) {
  EXPECT_THAT(Encoded("x \n<l> y"), ElementsAre('x', 262, ' ', 'y'));
  EXPECT_THAT(Encoded("x <r> \t\u00A0\ny"), ElementsAre('x', ' ', 263, 'y'));
  EXPECT_THAT(Encoded(" \u3000<l>"), ElementsAre(262));
  EXPECT_THAT(Encoded("<a> <l>"), ElementsAre(260, 262));
  EXPECT_THAT(Encoded("<r>  <l>"), ElementsAre(263, 262));
}

TEST_F(AddedTokensTest, FindsSingleWordsOnlyAlone) {
  const auto alone = [&](std::string_view text) {
    const std::vector<TokenId> ids = Encoded(text);
    return std::find(ids.begin(), ids.end(), 264) != ids.end();
  };
  for (const char* text :
       {"word", "a word.", "<word>", "word word", "-word-", "東 word", "<a>word"}) {
    EXPECT_TRUE(alone(text)) << text;
  }
  for (const char* text : {"sword", "words", "word2", "éword", "word東", "word_", "_word"}) {
    EXPECT_FALSE(alone(text)) << text;
  }
}

TEST_F(AddedTokensTest, SkipsSpecialTokensOnly) {
  const std::vector<TokenId> ids = {'x', 260, 265, 264, 261};
  EXPECT_EQ(tokenizer_->Decode(ids, false), "x<a><c>word<a><b>");
  EXPECT_EQ(tokenizer_->Decode(ids, true), "x<c>word");
  EXPECT_TRUE(tokenizer_->IsSpecial(260));
  EXPECT_FALSE(tokenizer_->IsSpecial(265));
}

TEST(AddedTokensNormalizedTest, AreLookedForAfterNormalizing) {
  const Json json = Patched(ByteLevel(), R"([
    {"op": "replace", "path": "/normalizer", "value": {"type": "NFC"}},
    {"op": "replace", "path": "/added_tokens", "value": [
      {"id": 260, "content": "é!", "normalized": true},
      {"id": 261, "content": "è!", "normalized": false}]}])");
  const auto tokenizer = Parsed(json);
  EXPECT_THAT(Ids(*tokenizer, "e\u0301!"), ElementsAre(260));
  EXPECT_THAT(Ids(*tokenizer, "e\u0300!"), ElementsAre(0xC3, 0xA8, '!'));
  EXPECT_THAT(Ids(*tokenizer, "è!"), ElementsAre(261));
}

struct Refusal {
  const char* patch;
  const char* message;
};

void ExpectRefused(const Json& json, absl::StatusCode code, const std::vector<Refusal>& refusals) {
  for (const Refusal& refusal : refusals) {
    const absl::Status status = Tokenizer::Parse(Patched(json, refusal.patch).dump()).status();
    EXPECT_EQ(status.code(), code) << refusal.patch;
    EXPECT_THAT(std::string(status.message()), HasSubstr(refusal.message)) << refusal.patch;
  }
}

TEST(TokenizerTest, NamesTheFieldThatIsMalformed) {
  ExpectRefused(
      ByteLevel(), absl::StatusCode::kInvalidArgument,
      {{R"([{"op":"remove","path":"/model"}])", "'model': missing"},
       {R"([{"op":"replace","path":"/model","value":[]}])", "'model': missing or not an object"},
       {R"([{"op":"remove","path":"/model/merges"}])", "'model.merges': missing or empty"},
       {R"([{"op":"replace","path":"/model/merges","value":[]}])", "'model.merges': missing or"},
       {R"([{"op":"replace","path":"/model/merges","value":["t"]}])",
        "'model.merges[0]': expected two pieces, found \"t\""},
       {R"([{"op":"add","path":"/model/merges/1","value":"a b c"}])", "'model.merges[1]'"},
       {R"([{"op":"add","path":"/model/merges/1","value":["a",5]}])", "'model.merges[1]'"},
       {R"([{"op":"add","path":"/model/merges/1","value":["a","zz"]}])",
        "'model.merges[1]': 'zz' is not in the vocabulary"},
       {R"([{"op":"add","path":"/model/merges/1","value":"x y"}])", "'xy' is not in the vocab"},
       {R"([{"op":"remove","path":"/model/vocab"}])", "'model.vocab'"},
       {R"([{"op":"replace","path":"/model/vocab","value":{}}])", "'model.vocab'"},
       {R"([{"op":"add","path":"/model/vocab/zz","value":257}])", "have the same id 257"},
       {R"([{"op":"add","path":"/model/vocab/zz","value":-1}])", "id of 'zz' is -1"},
       {R"([{"op":"add","path":"/model/vocab/zz","value":9999999999}])",
        "id of 'zz' is 9999999999"},
       {R"([{"op":"add","path":"/model/vocab/zz","value":1.5}])", "id of 'zz' is 1.5"},
       {R"([{"op":"add","path":"/model/unk_token","value":"zz"}])", "'model.unk_token': 'zz'"},
       {R"([{"op":"add","path":"/model/byte_fallback","value":1}])", "'byte_fallback'"},
       {R"([{"op":"replace","path":"/added_tokens","value":{}}])",
        "'added_tokens': expected a list"},
       {R"([{"op":"replace","path":"/added_tokens","value":[{"id":260}]}])",
        "'content' is missing"},
       {R"([{"op":"replace","path":"/added_tokens","value":[{"content":"a"}]}])",
        "'id' is missing"},
       {R"([{"op":"replace","path":"/added_tokens","value":[{"id":-1,"content":"a"}]}])",
        "'added_tokens': id -1 of 'a'"},
       {R"([{"op":"replace","path":"/added_tokens","value":[{"id":260,"content":""}]}])",
        "'added_tokens': id 260 of ''"},
       {R"([{"op":"replace","path":"/pre_tokenizer","value":{}}])", "'type' is missing"},
       {R"([{"op":"replace","path":"/pre_tokenizer","value":null}])",
        "'pre_tokenizer' and 'decoder'"},
       {R"([{"op":"replace","path":"/pre_tokenizer","value":{"type":"Sequence","pretokenizers":[
             {"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"}]}}])",
        "'pre_tokenizer.pattern': at offset 1"},
       {R"([{"op":"replace","path":"/pre_tokenizer","value":{"type":"Sequence"}}])",
        "'pre_tokenizer.pretokenizers'"},
       {R"([{"op":"replace","path":"/normalizer","value":{"type":"Sequence"}}])",
        "'normalizer.normalizers'"},
       {R"([{"op":"replace","path":"/normalizer","value":
             {"type":"Replace","pattern":{"String":""},"content":"a"}}])",
        "'normalizer.pattern'"},
       {R"([{"op":"replace","path":"/post_processor","value":{"type":"TemplateProcessing"}}])",
        "'post_processor'"}});
  EXPECT_EQ(Tokenizer::Parse("[]").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Tokenizer::Parse("{").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(TokenizerTest, RefusesTemplatesOfTokensThatDoNotExist) {
  ExpectRefused(
      SentencePiece(), absl::StatusCode::kInvalidArgument,
      {{R"([{"op":"replace","path":"/post_processor/special_tokens/<s>/ids/0",
                       "value":13}])",
        "'post_processor.special_tokens': id 13 is not in the vocabulary"},
       {R"([{"op":"remove","path":"/post_processor/special_tokens/<s>"}])", "no ids of '<s>'"}});
}

TEST(TokenizerTest, NamesThePartThatIsNotKnown) {
  ExpectRefused(
      ByteLevel(), absl::StatusCode::kUnimplemented,
      {{R"([{"op":"replace","path":"/model/type","value":"WordPiece"}])", "'WordPiece'"},
       {R"([{"op":"replace","path":"/normalizer","value":{"type":"BertNormalizer"}}])",
        "'normalizer.type': 'BertNormalizer'"},
       {R"([{"op":"replace","path":"/normalizer","value":
             {"type":"Replace","pattern":{"Regex":"a"},"content":""}}])",
        "'normalizer.pattern'"},
       {R"([{"op":"replace","path":"/pre_tokenizer","value":{"type":"Whitespace"}}])",
        "'pre_tokenizer.type': 'Whitespace'"},
       {R"([{"op":"replace","path":"/pre_tokenizer","value":
             {"type":"Split","pattern":{"String":"a"},"behavior":"MergedWithNext"}}])",
        "'MergedWithNext'"},
       {R"([{"op":"replace","path":"/decoder","value":{"type":"CTC"}}])", "'decoder.type': 'CTC'"},
       {R"([{"op":"replace","path":"/decoder","value":null}])", "'decoder': null"},
       {R"([{"op":"replace","path":"/post_processor","value":{"type":"BertProcessing"}}])",
        "'post_processor.type': 'BertProcessing'"},
       {R"([{"op":"add","path":"/model/end_of_word_suffix","value":"</w>"}])",
        "'model.end_of_word_suffix': '</w>'"},
       {R"([{"op":"add","path":"/model/dropout","value":0.1}])", "'model.dropout'"}});
}

// Short files that would take the stack or the memory.
TEST(TokenizerTest, RefusesPartsThatGrowWithoutBound) {
  const Json doubling = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
  const Json long_prefix = {{"type", "Prepend"}, {"prepend", std::string(100'000, 'a')}};
  const Json split = {{"type", "Split"}, {"pattern", {{"String", "a"}}}, {"behavior", "Isolated"}};
  const struct {
    const char* field;
    const char* list;
    Json item;
    int count;
  } kRefusals[] = {
      {"normalizer", "normalizers", doubling, 40},
      {"normalizer", "normalizers", long_prefix, 1},
      {"pre_tokenizer", "pretokenizers", split, 10'000},
      {"decoder", "decoders", doubling, 40},
  };
  for (const auto& [field, list, item, count] : kRefusals) {
    Json json = SentencePiece();
    json[field] = {{"type", "Sequence"}, {list, Json::array()}};
    for (int i = 0; i < count; ++i) json[field][list].push_back(item);
    const absl::Status status = Tokenizer::Parse(json.dump()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string("field '") + field));
  }
}

TEST(TokenizerTest, NamesTheFile) {
  const TempFolder folder;
  const std::string path = folder.path() + "/tokenizer.json";
  EXPECT_EQ(Tokenizer::Load(path).status().code(), absl::StatusCode::kNotFound);
  std::ofstream(path) << "{}" << std::flush;
  EXPECT_THAT(std::string(Tokenizer::Load(path).status().message()), HasSubstr(path + ": field"));
  std::ofstream(path) << ByteTokenizerJson() << std::flush;
  EXPECT_TRUE(Tokenizer::Load(path).ok());
}

}  // namespace
}  // namespace chorale
