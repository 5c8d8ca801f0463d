// One value, several files: each value from each file alone, two files at odds, and every form.
#include "model/checkpoint/checkpoint_settings.h"

#include <filesystem>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "model/checkpoint/random_checkpoint.h"
#include "model/model_loader.h"
#include "tests/model/checkpoint/safetensors_file.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/tiny_model.h"
#include "text/utf8.h"

namespace chorale {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class Settings : public testing::Test {
 protected:
  void Write(const std::string& name, const Json& json) {
    WriteFile(folder_.path() + "/" + name, json.dump());
  }
  void WriteText(const std::string& name, const std::string& text) {
    const std::filesystem::path path = folder_.path() + "/" + name;
    std::filesystem::create_directories(path.parent_path());
    WriteFile(path, text);
  }
  TextSettings Text() {
    auto settings = LoadTextSettings(folder_.path());
    EXPECT_TRUE(settings.ok()) << settings.status();
    return settings.ok() ? *std::move(settings) : TextSettings();
  }
  GenerationSettings Generation() {
    auto settings = LoadGenerationSettings(folder_.path());
    EXPECT_TRUE(settings.ok()) << settings.status();
    return settings.ok() ? *std::move(settings) : GenerationSettings();
  }
  void ExpectRefused(const absl::Status& status, const std::string& part) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }

  TempFolder folder_;
};

TEST_F(Settings, AreEmptyWithoutFiles) {
  EXPECT_THAT(Text().special_tokens, IsEmpty());
  EXPECT_THAT(Text().chat_templates, IsEmpty());
  EXPECT_EQ(Text().add_bos_token, std::nullopt);
  EXPECT_EQ(Generation().defaults, GenerationDefaults());
}

TEST_F(Settings, TakeSpecialTokensFromEitherFileInEitherForm) {
  for (const char* file : {"tokenizer_config.json", "special_tokens_map.json"}) {
    for (const char* field : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                              "cls_token", "mask_token"}) {
      for (const Json& form : {Json("<t>"), Json({{"content", "<t>"}, {"lstrip", false}})}) {
        const TempFolder own;
        WriteFile(own.path() + "/" + file, Json({{field, form}}).dump());
        const auto settings = LoadTextSettings(own.path());
        ASSERT_TRUE(settings.ok()) << settings.status();
        EXPECT_EQ(settings->Token(field), "<t>") << file << " " << field;
        EXPECT_EQ(settings->special_tokens.size(), 1u);
      }
    }
  }
}

TEST_F(Settings, PreferTheMapOfSpecialTokensUnlessTheConfigListsItsAddedTokens) {
  Write("special_tokens_map.json", {{"eos_token", "<map>"}, {"pad_token", "<pad>"}});
  Write("tokenizer_config.json", {{"eos_token", "<config>"}, {"bos_token", nullptr}});
  EXPECT_EQ(Text().Token("eos_token"), "<map>");
  Write("tokenizer_config.json",
        {{"eos_token", "<config>"}, {"added_tokens_decoder", Json::object()}});
  EXPECT_EQ(Text().Token("eos_token"), "<config>");
  EXPECT_EQ(Text().Token("pad_token"), "<pad>");
  EXPECT_EQ(Text().Token("bos_token"), "");
}

TEST_F(Settings, TakeTemplatesFromFilesBeforeFields) {
  Write("chat_template.json", {{"chat_template", "of the processor"}});
  EXPECT_EQ(Text().chat_templates["default"], "of the processor");
  Write("tokenizer_config.json", {{"chat_template", "of the config"}});
  EXPECT_EQ(Text().chat_templates["default"], "of the config");
  WriteText("chat_template.jinja", "of the file");
  EXPECT_EQ(Text().chat_templates["default"], "of the file");
  WriteText("additional_chat_templates/rag.jinja", "of rag");
  EXPECT_EQ(Text().chat_templates["rag"], "of rag");
  EXPECT_EQ(Text().chat_templates.size(), 2u);
}

TEST_F(Settings, TakeNamedTemplates) {
  Write("tokenizer_config.json",
        {{"chat_template",
          {{{"name", "default"}, {"template", "d"}}, {{"name", "tool_use"}, {"template", "t"}}}}});
  EXPECT_EQ(Text().chat_templates["default"], "d");
  EXPECT_EQ(Text().chat_templates["tool_use"], "t");
}

TEST_F(Settings, TakeAddedTokensFromFlagsAndFromLlamasClasses) {
  Write("tokenizer_config.json", {{"add_bos_token", false}, {"add_eos_token", true}});
  EXPECT_EQ(Text().add_bos_token, false);
  EXPECT_EQ(Text().add_eos_token, true);
  Write("tokenizer_config.json", {{"tokenizer_class", "LlamaTokenizerFast"}});
  EXPECT_EQ(Text().add_bos_token, true);
  EXPECT_EQ(Text().add_eos_token, false);
  Write("tokenizer_config.json",
        {{"tokenizer_class", "LlamaTokenizer"}, {"add_bos_token", false}, {"add_eos_token", true}});
  EXPECT_EQ(Text().add_bos_token, false);
  EXPECT_EQ(Text().add_eos_token, true);
  Write("tokenizer_config.json", {{"tokenizer_class", "PreTrainedTokenizerFast"}});
  EXPECT_EQ(Text().add_bos_token, std::nullopt);
}

TEST_F(Settings, TakeSamplingDefaults) {
  Write("generation_config.json", {{"temperature", 0.6},
                                   {"top_k", 20},
                                   {"top_p", 0.95},
                                   {"min_p", 0.1},
                                   {"repetition_penalty", 1.05},
                                   {"max_new_tokens", 77},
                                   {"stop_strings", {"a", "b"}},
                                   {"do_sample", true}});
  const GenerationDefaults defaults = Generation().defaults;
  EXPECT_EQ(defaults.temperature, 0.6);
  EXPECT_EQ(defaults.top_k, 20);
  EXPECT_EQ(defaults.top_p, 0.95);
  EXPECT_EQ(defaults.min_p, 0.1);
  EXPECT_EQ(defaults.repetition_penalty, 1.05);
  EXPECT_EQ(defaults.max_tokens, 77);
  EXPECT_THAT(defaults.stop, ElementsAre("a", "b"));
  EXPECT_THAT(Generation().notes, IsEmpty());
}

TEST_F(Settings, AreGreedyWhereTheFileDoesNotSample) {
  Write("generation_config.json", {{"do_sample", false}, {"temperature", 0.6}});
  EXPECT_EQ(Generation().defaults.temperature, 0);
}

// It is a top_p still, so that the top_p of a request takes its place.
TEST_F(Settings, KeepTheLikeliestTokenWhereTheFileSaysTopPZero) {
  Write("generation_config.json", {{"temperature", 0.6}, {"top_p", 0}, {"top_k", -1}});
  const GenerationDefaults defaults = Generation().defaults;
  EXPECT_EQ(defaults.temperature, 0.6);
  EXPECT_EQ(defaults.top_k, 0);
  ASSERT_TRUE(defaults.top_p.has_value());
  EXPECT_GT(*defaults.top_p, 0);
  EXPECT_LE(*defaults.top_p, 1e-9);
}

TEST_F(Settings, LeaveOutStopsThatNoRequestMayHave) {
  Json stops = Json::array();
  for (size_t i = 0; i < kStopStringsMax + 2; ++i) stops.push_back(std::string(i + 1, 's'));
  stops[0] = std::string(kStopBytesMax + 1, 'l');
  Write("generation_config.json", {{"stop_strings", stops}});
  EXPECT_EQ(Generation().defaults.stop.size(), kStopStringsMax);
  EXPECT_EQ(Generation().defaults.stop[0], "ss");
  EXPECT_THAT(Generation().notes,
              ElementsAre(HasSubstr("a string of 1025 bytes is left out; the limit is 1024"),
                          HasSubstr("17 strings; those behind the first 16 are left out")));
}

TEST_F(Settings, TakeTheModelsConfigOnlyWithoutAGenerationConfig) {
  Write("config.json", {{"temperature", 0.5}, {"num_beams", 4}});
  EXPECT_EQ(Generation().defaults.temperature, 0.5);
  EXPECT_THAT(Generation().notes, ElementsAre("config.json: field 'num_beams': 4 is not followed"));
  Write("generation_config.json", Json::object());
  EXPECT_EQ(Generation().defaults.temperature, std::nullopt);
  EXPECT_THAT(Generation().notes, IsEmpty());
}

TEST_F(Settings, NameWhatIsNotFollowed) {
  Write("generation_config.json", {{"num_beams", 1},
                                   {"typical_p", 0.9},
                                   {"no_repeat_ngram_size", 3},
                                   {"suppress_tokens", {1, 2}},
                                   {"min_new_tokens", 0},
                                   {"bad_words_ids", nullptr},
                                   {"num_return_sequences", 2},
                                   {"length_penalty", 1.0},
                                   {"diversity_penalty", 0.5},
                                   {"token_healing", true},
                                   {"prompt_lookup_num_tokens", 10},
                                   {"guidance_scale", 1.5}});
  EXPECT_THAT(Generation().notes,
              ElementsAre("generation_config.json: field 'typical_p': 0.9 is not followed",
                          "generation_config.json: field 'no_repeat_ngram_size': 3 is not followed",
                          "generation_config.json: field 'suppress_tokens': [1,2] is not followed",
                          "generation_config.json: field 'guidance_scale': 1.5 is not followed",
                          "generation_config.json: field 'num_return_sequences': 2 is not followed",
                          "generation_config.json: field 'diversity_penalty': 0.5 is not followed",
                          "generation_config.json: field 'token_healing': true is not followed",
                          "generation_config.json: field 'prompt_lookup_num_tokens': 10 is not "
                          "followed"));
  Write("generation_config.json", {{"length_penalty", 0.5}});
  EXPECT_THAT(Generation().notes, ElementsAre(HasSubstr("'length_penalty': 0.5 is not followed")));
}

TEST_F(Settings, RefuseWrongTypesWithFileAndField) {
  const struct {
    const char* file;
    Json json;
    const char* message;
  } kRefusals[] = {
      {"tokenizer_config.json", {{"bos_token", 5}}, "tokenizer_config.json: field 'bos_token'"},
      {"tokenizer_config.json", {{"eos_token", {{"content", 5}}}}, "in 'eos_token'"},
      {"tokenizer_config.json", {{"chat_template", 5}}, "field 'chat_template'"},
      {"tokenizer_config.json", {{"chat_template", {5}}}, "found 5"},
      {"tokenizer_config.json", {{"add_bos_token", "yes"}}, "field 'add_bos_token'"},
      {"tokenizer_config.json", Json::array(), "expected a JSON object"},
      {"special_tokens_map.json", {{"bos_token", {1}}}, "special_tokens_map.json: field"},
      {"chat_template.json", {{"chat_template", 5}}, "chat_template.json: field"},
  };
  for (const auto& [file, json, message] : kRefusals) {
    const TempFolder own;
    WriteFile(own.path() + "/" + file, json.dump());
    ExpectRefused(LoadTextSettings(own.path()).status(), message);
  }
  for (const auto& [field, value] : {std::pair<const char*, Json>{"temperature", -1},
                                     {"temperature", "hot"},
                                     {"top_k", -2},
                                     {"top_k", 1.5},
                                     {"top_p", 1.5},
                                     {"min_p", 2},
                                     {"repetition_penalty", 0},
                                     {"max_new_tokens", 0},
                                     {"do_sample", 1},
                                     {"stop_strings", {""}},
                                     {"stop_strings", 5}}) {
    Write("generation_config.json", {{field, value}});
    ExpectRefused(LoadGenerationSettings(folder_.path()).status(),
                  std::string("generation_config.json: field '") + field + "'");
  }
}

// Ends come from config.json and generation_config.json as ids, and from the tokenizer as a text.
class Ends : public Settings {
 protected:
  Ends() : pool_(1) {
    WriteTinyModel(folder_.path());
    tokenizer_ = *Tokenizer::Parse(ByteTokenizerJson());
  }
  std::shared_ptr<const Model> Load(const std::string& adapter = "") {
    auto loader = ModelLoader::Open(folder_.path(), {.kernels = *kernels::FindKernels("reference")},
                                    pool_, nullptr);
    EXPECT_TRUE(loader.ok()) << loader.status();
    loader->UseTokenizer(tokenizer_.get());
    auto models = loader->Load({{.name = "m", .module = {.name = "m", .adapter = adapter}}}, pool_);
    EXPECT_TRUE(models.ok()) << models.status();
    return models->front();
  }

  kernels::ThreadPool pool_;
  std::unique_ptr<const Tokenizer> tokenizer_;
};

TEST_F(Ends, AreThoseOfEveryFile) {
  EXPECT_THAT(Load()->ends, ElementsAre(7));
  Write("generation_config.json", {{"eos_token_id", {9}}});
  EXPECT_THAT(Load()->ends, ElementsAre(7, 9));
  Write("tokenizer_config.json", {{"eos_token", {{"content", "the"}}}});
  EXPECT_THAT(Load()->ends, ElementsAre(7, 9, *tokenizer_->IdOf("the")));
  Write("tokenizer_config.json", {{"eos_token", "<|nowhere|>"}});
  EXPECT_THAT(Load()->ends, ElementsAre(7, 9));
  EXPECT_THAT(Load()->generation.notes,
              ElementsAre(HasSubstr("'<|nowhere|>' that the tokenizer's files name is not in")));
}

TEST_F(Ends, ComeWithNotesOnTheTextOfTheModel) {
  Write("tokenizer_config.json", {{"add_bos_token", true}, {"bos_token", nullptr}});
  EXPECT_THAT(Load()->generation.notes,
              ElementsAre(HasSubstr("add_bos_token holds, but no bos_token is named")));
  Write("tokenizer_config.json", {{"chat_template", "a\n{% include 'x' %}"}});
  EXPECT_THAT(
      Load()->generation.notes,
      ElementsAre(AllOf(HasSubstr("template 'default': chat template line 2: the statement"),
                        HasSubstr("are refused"))));
  WriteText("chat_template.jinja", "a\n\xff");
  EXPECT_THAT(Load()->generation.notes, ElementsAre(HasSubstr("line 2: byte 2 of the file")));
  WriteText("chat_template.jinja", "{{ a \xce\xa9 }}");
  EXPECT_EQ(Load()->generation.notes.size(), 1u);
  EXPECT_EQ(FindInvalidUtf8(Load()->generation.notes[0]), std::nullopt);
}

TEST_F(Ends, AndTextOfAnAdapterAreItsOwnWhereItHasFiles) {
  const TempFolder adapter;
  ASSERT_TRUE(WriteRandomAdapter(adapter.path(), TinyConfig(), 2, 4, 1).ok());
  Write("tokenizer_config.json", {{"eos_token", "the"}});
  Write("generation_config.json", {{"temperature", 0.5}});
  EXPECT_THAT(Load(adapter.path())->ends, ElementsAre(7, *tokenizer_->IdOf("the")));
  EXPECT_EQ(Load(adapter.path())->text_folder, folder_.path());
  WriteFile(adapter.path() + "/tokenizer_config.json", R"({"eos_token": "in"})");
  WriteFile(adapter.path() + "/generation_config.json", R"({"temperature": 0.25})");
  EXPECT_THAT(Load(adapter.path())->ends, ElementsAre(7, *tokenizer_->IdOf("in")));
  EXPECT_EQ(Load(adapter.path())->text_folder, adapter.path());
  EXPECT_EQ(Load(adapter.path())->generation.defaults.temperature, 0.25);
}

}  // namespace
}  // namespace chorale
