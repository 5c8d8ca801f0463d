#include "model/checkpoint/config.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/model/checkpoint/safetensors_file.h"
#include "tests/testing/temp_folder.h"

namespace chorale {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

Json Minimal(const char* architecture) {
  return {{"architectures", {architecture}}, {"num_hidden_layers", 2},  {"hidden_size", 32},
          {"num_attention_heads", 4},        {"intermediate_size", 64}, {"vocab_size", 100}};
}

ModelConfig Parsed(const Json& json) {
  auto config = ParseModelConfig(json);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *std::move(config) : ModelConfig();
}

Json With(const char* field, Json value) {
  Json json = Minimal("LlamaForCausalLM");
  json[field] = std::move(value);
  return json;
}

TEST(ModelConfigTest, TakesTheDefaultsOfLlama) {
  const ModelConfig config = Parsed(Minimal("LlamaForCausalLM"));
  EXPECT_EQ(config.architecture, "LlamaForCausalLM");
  EXPECT_EQ(config.layers, 2);
  EXPECT_EQ(config.kv_heads, 4);
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_EQ(config.positions_max, 2048);
  EXPECT_FLOAT_EQ(config.norm_eps, 1e-6f);
  EXPECT_EQ(config.rope_theta, 10000);
  EXPECT_EQ(config.rope_scaling, RopeScaling{});
  EXPECT_FALSE(config.tied_embeddings || config.qkv_bias || config.o_bias || config.qk_norm);
  EXPECT_TRUE(config.eos_ids.empty());
  EXPECT_EQ(config.dtype, "");
}

TEST(ModelConfigTest, TakesTheDefaultsOfMistral) {
  Json json = Minimal("MistralForCausalLM");
  EXPECT_EQ(Parsed(json).positions_max, 131072);
  EXPECT_EQ(Parsed(json).context_reason, "the default of MistralForCausalLM");
  // A window of 4096 in every layer is the default; null switches it off.
  EXPECT_EQ(Parsed(json).window.of_all_layers(), 4096);
  json["sliding_window"] = nullptr;
  EXPECT_EQ(Parsed(json).window, AttentionWindow{});
  json["attention_bias"] = true;  // not a setting of this architecture
  EXPECT_FALSE(Parsed(json).qkv_bias);
}

TEST(ModelConfigTest, TakesTheDefaultsOfQwen2) {
  Json json = Minimal("Qwen2ForCausalLM");
  const ModelConfig config = Parsed(json);
  EXPECT_TRUE(config.qkv_bias);
  EXPECT_FALSE(config.o_bias || config.qk_norm);
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_EQ(config.positions_max, 32768);
  json["sliding_window"] = 512;  // counts only with the switch, from layer 28 on
  EXPECT_EQ(Parsed(json).window, AttentionWindow{});
  json["use_sliding_window"] = true;
  EXPECT_EQ(Parsed(json).window, AttentionWindow{});
  json["max_window_layers"] = 1;
  EXPECT_EQ(Parsed(json).window, (AttentionWindow{512, {false, true}}));
  EXPECT_EQ(Parsed(json).window.of_all_layers(), 0);
  json["max_window_layers"] = 0;
  EXPECT_EQ(Parsed(json).window.of_all_layers(), 512);
  json["sliding_window"] = nullptr;  // as in the reference: there is none to switch on
  EXPECT_EQ(Parsed(json).window, AttentionWindow{});
}

TEST(ModelConfigTest, TakesTheDefaultsOfQwen3) {
  Json json = Minimal("Qwen3ForCausalLM");
  const ModelConfig config = Parsed(json);
  EXPECT_TRUE(config.qk_norm);
  EXPECT_FALSE(config.qkv_bias);
  EXPECT_EQ(config.head_dim, 128);
  json["attention_bias"] = true;
  EXPECT_TRUE(Parsed(json).qkv_bias && Parsed(json).o_bias);
  json["layer_types"] = {"full_attention", "sliding_attention"};
  json["use_sliding_window"] = true;
  json["sliding_window"] = 64;
  EXPECT_EQ(Parsed(json).window, (AttentionWindow{64, {false, true}}));
}

TEST(ModelConfigTest, TakesLayerTypesForWhichLayersHaveAWindow) {
  Json json = Minimal("MistralForCausalLM");
  json["sliding_window"] = 64;
  json["layer_types"] = {"sliding_attention", "full_attention"};
  EXPECT_EQ(Parsed(json).window, (AttentionWindow{64, {true, false}}));
  json["layer_types"] = {"full_attention", "full_attention"};
  EXPECT_EQ(Parsed(json).window, AttentionWindow{});
  json.erase("layer_types");
  EXPECT_EQ(Parsed(json).window.of_layer(1), 64);
  json["sliding_window"] = 131072;  // as long as the context: it hides nothing
  EXPECT_EQ(Parsed(json).window, AttentionWindow{});
}

TEST(ModelConfigTest, RefusesWindowsThatAreAtOdds) {
  const auto refusal = [](Json json) {
    return std::string(ParseModelConfig(json).status().message());
  };
  Json json = Minimal("MistralForCausalLM");
  json["layer_types"] = {"sliding_attention"};
  EXPECT_THAT(refusal(json), HasSubstr("'layer_types': expected a list of 2 names"));
  json["layer_types"] = {"sliding_attention", "chunked_attention"};
  EXPECT_THAT(refusal(json), HasSubstr("\"chunked_attention\" is not known"));
  json["layer_types"] = {"sliding_attention", "full_attention"};
  json["sliding_window"] = nullptr;
  EXPECT_THAT(refusal(json), HasSubstr("sliding_window is null"));
  json["sliding_window"] = 0;
  EXPECT_THAT(refusal(json), HasSubstr("'sliding_window': 0 is not within"));
  json["architectures"] = {"Qwen3ForCausalLM"};
  json["sliding_window"] = 64;
  EXPECT_THAT(refusal(json), HasSubstr("use_sliding_window is not true"));
  json["architectures"] = {"LlamaForCausalLM"};
  EXPECT_THAT(refusal(json), HasSubstr("not known for LlamaForCausalLM"));
}

TEST(ModelConfigTest, KnowsAnArchitectureByItsModelType) {
  Json json = Minimal("");
  json.erase("architectures");
  json["model_type"] = "qwen2";
  EXPECT_EQ(Parsed(json).architecture, "Qwen2ForCausalLM");
}

TEST(ModelConfigTest, ReadsEndsOfText) {
  EXPECT_THAT(Parsed(With("eos_token_id", 7)).eos_ids, ElementsAre(7));
  EXPECT_THAT(Parsed(With("eos_token_id", {9, 7, 9})).eos_ids, ElementsAre(9, 7));
  EXPECT_THAT(Parsed(With("eos_token_id", nullptr)).eos_ids, ElementsAre());
}

TEST(ModelConfigTest, NamesTheFieldAndItsValue) {
  const struct {
    const char* field;
    Json value;
    const char* message;
  } kRefusals[] = {
      {"architectures", Json::array(), "'architectures': expected a list of one name, found []"},
      {"architectures", {"a", "b"}, "found [\"a\",\"b\"]"},
      {"architectures", "LlamaForCausalLM", "found \"LlamaForCausalLM\""},
      {"num_hidden_layers", 0, "'num_hidden_layers': 0 is not within [1, "},
      {"num_hidden_layers", nullptr, "'num_hidden_layers' is missing"},
      {"num_hidden_layers", 2.5, "'num_hidden_layers': expected an integer, found 2.5"},
      {"hidden_size", -32, "'hidden_size': -32 is not within"},
      {"hidden_size", 1e300, "'hidden_size': expected an integer, found 1e+300"},
      {"hidden_size", 9223372036854775807, "'hidden_size': 9223372036854775807 is not"},
      {"hidden_size", 18446744073709551615u, "'hidden_size'"},
      {"hidden_size", 34, "'hidden_size': 34 is not a multiple of num_attention_heads = 4"},
      {"hidden_size", 36, "'head_dim': 9 is odd"},
      {"num_attention_heads", "4", "'num_attention_heads': expected an integer, found \"4\""},
      {"num_key_value_heads", 3, "'num_key_value_heads': 3 does not divide"},
      {"num_key_value_heads", 8, "'num_key_value_heads': 8 does not divide"},
      {"head_dim", 7, "'head_dim': 7 is odd"},
      {"head_dim", 0, "'head_dim': 0 is not within"},
      {"intermediate_size", false, "'intermediate_size': expected an integer, found false"},
      {"vocab_size", 1 << 30, "'vocab_size': 1073741824 is not within"},
      {"max_position_embeddings", 0, "'max_position_embeddings': 0"},
      {"rms_norm_eps", 0, "'rms_norm_eps': 0 is not within"},
      {"rms_norm_eps", "1e-6", "'rms_norm_eps': expected a number"},
      {"rope_theta", 1, "'rope_theta': 1 is not within"},
      {"rope_theta", -10000, "'rope_theta': -10000"},
      {"rope_scaling", "linear", "'rope_scaling': expected an object, found \"linear\""},
      {"rope_scaling", {{"type", "linear"}}, "in 'rope_scaling': field 'factor' is missing"},
      {"rope_scaling", {{"type", "linear"}, {"factor", 0}}, "field 'factor': 0 is not within"},
      {"rope_scaling",
       {{"rope_type", "llama3"}, {"factor", 8}},
       "'original_max_position_embeddings' is missing"},
      {"rope_scaling",
       {{"rope_type", "llama3"},
        {"factor", 8},
        {"low_freq_factor", 4},
        {"original_max_position_embeddings", 64}},
       "'high_freq_factor': 4 is not above low_freq_factor = 4"},
      {"rope_scaling", {{"rope_type", "dynamic"}}, "field 'factor' is missing"},
      {"rope_scaling",
       {{"rope_type", "longrope"}, {"short_factor", {1, 1}}},
       "'short_factor': expected a list of 4 numbers, half of head_dim, found [1,1]"},
      {"rope_scaling",
       {{"rope_type", "longrope"}, {"short_factor", {1, 1, 1, 0}}},
       "'short_factor': 0 is not a number within"},
      {"rope_scaling",
       {{"rope_type", "longrope"}, {"short_factor", {1, 1, 1, 1}}},
       "'long_factor': expected a list of 4 numbers, half of head_dim, found none"},
      {"rope_scaling", {{"rope_type", "yarn"}, {"beta_slow", 64}}, "'beta_slow': 64"},
      {"rope_scaling", {{"rope_type", "yarn"}, {"attention_factor", -1}}, "'attention_factor': -1"},
      {"tie_word_embeddings", 1, "'tie_word_embeddings'"},
      {"eos_token_id", 100, "'eos_token_id': 100 is not a token id within [0, 99]"},
      {"eos_token_id", {1, -1}, "'eos_token_id': -1"},
      {"eos_token_id", "</s>", "'eos_token_id': \"</s>\""},
      {"hidden_act", 5, "'hidden_act': expected a string, found 5"},
  };
  for (const auto& [field, value, message] : kRefusals) {
    const auto config = ParseModelConfig(With(field, value));
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << field << value;
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(message));
  }
  EXPECT_EQ(ParseModelConfig(Json::array()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ModelConfigTest, NamesWhatIsNotKnown) {
  const struct {
    const char* field;
    Json value;
    const char* message;
  } kRefusals[] = {
      {"architectures", {"GPT2LMHeadModel"}, "'GPT2LMHeadModel' is not known; known are Llama"},
      {"rope_scaling", {{"rope_type", "su"}}, "'rope_type': 'su' is not known"},
      {"rope_scaling", {{"type", "dynamic"}, {"factor", 2}, {"alpha", 1000}}, "'alpha'"},
      {"rope_parameters", {{"full_attention", Json::object()}}, "'rope_parameters.full_attention'"},
      {"rope_scaling", {{"rope_type", "yarn"}, {"truncate", false}}, "'truncate'"},
      {"hidden_act", "gelu", "'hidden_act': 'gelu'"},
      {"mlp_bias", true, "'mlp_bias'"},
      {"partial_rotary_factor", 0.5, "'partial_rotary_factor': 0.5"},
      {"quantization_config", {{"quant_method", "gptq"}}, "quantisation 'gptq'"},
      {"quantization_config", "int4", "int4"},
  };
  for (const auto& [field, value, message] : kRefusals) {
    const auto config = ParseModelConfig(With(field, value));
    EXPECT_EQ(config.status().code(), absl::StatusCode::kUnimplemented) << field << value;
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(message));
  }
}

TEST(ModelConfigTest, ReadsRopeScalings) {
  RopeScaling rope = Parsed(With("rope_scaling", {{"type", "linear"}, {"factor", 2}})).rope_scaling;
  EXPECT_EQ(rope.kind, RopeScaling::Kind::kLinear);
  EXPECT_EQ(rope.factor, 2);

  rope = Parsed(With("rope_scaling", {{"rope_type", "llama3"},
                                      {"factor", 32},
                                      {"low_freq_factor", 1.5},
                                      {"high_freq_factor", 5},
                                      {"original_max_position_embeddings", 8192}}))
             .rope_scaling;
  EXPECT_EQ(rope.kind, RopeScaling::Kind::kLlama3);
  EXPECT_EQ(rope.factor, 32);
  EXPECT_EQ(rope.low_freq_factor, 1.5);
  EXPECT_EQ(rope.high_freq_factor, 5);
  EXPECT_EQ(rope.original_positions, 8192);

  EXPECT_EQ(Parsed(With("rope_scaling", {{"rope_type", "default"}})).rope_scaling, RopeScaling{});
  EXPECT_EQ(
      Parsed(With("rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e6}})).rope_theta,
      1e6);
}

TEST(ModelConfigTest, ReadsOneOfTwoRopeObjects) {
  const auto refusal = [](const Json& json) {
    return std::string(ParseModelConfig(json).status().message());
  };
  const Json yarn = {
      {"rope_type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 2048}};
  const Json dynamic = {{"type", "dynamic"}, {"factor", 2}};
  for (const Json& rope : {yarn, dynamic}) {
    const ModelConfig once = Parsed(With("rope_scaling", rope));
    Json json = With("rope_scaling", rope);
    json["rope_parameters"] = rope;
    json["rope_parameters"]["rope_theta"] = 5e5;
    EXPECT_EQ(Parsed(json).rope_scaling, once.rope_scaling);
    EXPECT_EQ(Parsed(json).positions_max, once.positions_max);
    EXPECT_EQ(Parsed(json).context_reason, once.context_reason);
    EXPECT_EQ(Parsed(json).rope_theta, 5e5);
    json["rope_parameters"]["factor"] = 8;
    EXPECT_THAT(refusal(json),
                AllOf(HasSubstr("field 'rope_scaling'"), HasSubstr("but rope_parameters is")));
    json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 5e5}};
    EXPECT_THAT(refusal(json), HasSubstr("remove the one that does not hold"));
    json["rope_parameters"] = Json::object();  // says nothing
    EXPECT_EQ(Parsed(json).rope_scaling, once.rope_scaling);
  }
}

TEST(ModelConfigTest, RefusesRopeSettingsThatTheKindDoesNotRead) {
  const Json kRefused[] = {
      {{"factor", 4.0}},
      {{"rope_theta", 1e6}, {"beta_fast", 32}},
      {{"type", "linear"}, {"factor", 2}, {"fator", 4}},
      {{"type", "linear"}, {"factor", 2}, {"attention_factor", 1.5}},
      {{"type", "linear"}, {"rope_type", "dynamic"}, {"factor", 2}},
      {{"rope_type", "default"}, {"factor", 2}},
      {{"rope_type", "yarn"}, {"factor", 4}, {"attn_factor", 1.2}},
      {{"rope_type", "yarn"}, {"factor", 4}, {"low_freq_factor", 1}},
      {{"rope_type", "llama3"},
       {"factor", 8},
       {"beta_fast", 32},
       {"original_max_position_embeddings", 1024}},
      {{"rope_type", "dynamic"}, {"factor", 2}, {"original_max_position_embeddings", 1024}},
      {{"rope_type", "longrope"},
       {"short_factor", {1, 1, 1, 1}},
       {"long_factor", {1, 1, 1, 1}},
       {"factor", 4},
       {"short_mscale", 1.1}},
  };
  const char* const kFields[] = {"rope_type",   "rope_type",
                                 "fator",       "attention_factor",
                                 "type",        "factor",
                                 "attn_factor", "low_freq_factor",
                                 "beta_fast",   "original_max_position_embeddings",
                                 "short_mscale"};
  for (size_t i = 0; i < std::size(kRefused); ++i) {
    const auto config = ParseModelConfig(With("rope_scaling", kRefused[i]));
    EXPECT_FALSE(config.ok()) << kRefused[i];
    EXPECT_THAT(std::string(config.status().message()),
                HasSubstr(std::string("in 'rope_scaling': field '") + kFields[i] + "'"));
  }
}

TEST(ModelConfigTest, PassesOverRopeSettingsThatAskForNothing) {
  const RopeScaling plain;
  for (const Json& rope :
       {Json({{"rope_theta", 1e6}}), Json({{"rope_theta", 1e6}, {"partial_rotary_factor", 1.0}}),
        Json({{"rope_type", "default"}, {"factor", 1.0}, {"mrope_section", {16, 24, 24}}}),
        Json({{"type", "none"}}), Json({{"rope_type", nullptr}, {"factor", nullptr}})}) {
    EXPECT_EQ(Parsed(With("rope_scaling", rope)).rope_scaling, plain) << rope;
  }
  const Json linear = {{"type", "linear"},
                       {"rope_type", "linear"},
                       {"factor", 2},
                       {"original_max_position_embeddings", 1024},
                       {"attention_factor", 1.0}};
  EXPECT_EQ(Parsed(With("rope_scaling", linear)).rope_scaling.factor, 2);
  const Json yarn = {{"type", "yarn"}, {"factor", 2}, {"finetuned", true}, {"attn_factor", 1}};
  EXPECT_EQ(Parsed(With("rope_scaling", yarn)).rope_scaling.factor, 2);
}

TEST(ModelConfigTest, ReadsYarnAndItsLongerContext) {
  Json json =
      With("rope_scaling",
           {{"rope_type", "yarn"}, {"factor", 4}, {"original_max_position_embeddings", 2048}});
  ModelConfig config = Parsed(json);
  EXPECT_EQ(config.rope_scaling.kind, RopeScaling::Kind::kYarn);
  EXPECT_EQ(config.rope_scaling.beta_fast, 32);
  EXPECT_EQ(config.rope_scaling.beta_slow, 1);
  EXPECT_NEAR(config.rope_scaling.attention_factor, 1 + 0.1 * std::log(4.0), 1e-15);
  EXPECT_EQ(config.positions_max, 8192);
  EXPECT_EQ(config.context_reason, "rope yarn, factor 4 of 2048");
  json["rope_scaling"]["attention_factor"] = 1.25;
  EXPECT_EQ(Parsed(json).rope_scaling.attention_factor, 1.25);
  json["rope_scaling"].erase("attention_factor");
  json["rope_scaling"]["mscale"] = 1;
  json["rope_scaling"]["mscale_all_dim"] = 1;
  EXPECT_EQ(Parsed(json).rope_scaling.attention_factor, 1);
}

TEST(ModelConfigTest, ReadsDynamicAndItsLongerContext) {
  const ModelConfig config = Parsed(With("rope_scaling", {{"type", "dynamic"}, {"factor", 2.5}}));
  EXPECT_EQ(config.rope_scaling.kind, RopeScaling::Kind::kDynamic);
  EXPECT_EQ(config.rope_scaling.original_positions, 2048);
  EXPECT_EQ(config.positions_max, 5120);
  EXPECT_EQ(config.context_reason, "rope dynamic, factor 2.5 of 2048");
  EXPECT_EQ(config.short_context(), 0);
}

TEST(ModelConfigTest, ReadsLongRopeWhereverTheOriginalContextIsWritten) {
  const Json rope = {
      {"rope_type", "longrope"}, {"short_factor", {1, 1, 1.5, 2}}, {"long_factor", {1, 2, 4, 8}}};
  Json json = With("rope_scaling", rope);
  json["max_position_embeddings"] = 4096;
  json["original_max_position_embeddings"] = 1024;
  ModelConfig config = Parsed(json);
  EXPECT_EQ(config.rope_scaling.short_divisors, (std::vector<double>{1, 1, 1.5, 2}));
  EXPECT_EQ(config.rope_scaling.long_divisors, (std::vector<double>{1, 2, 4, 8}));
  EXPECT_EQ(config.positions_max, 4096);
  EXPECT_EQ(config.context_reason, "max_position_embeddings");
  EXPECT_EQ(config.short_context(), 1024);
  EXPECT_NEAR(config.rope_scaling.attention_factor, std::sqrt(1 + std::log(4) / std::log(1024)),
              1e-15);

  json.erase("original_max_position_embeddings");
  json["rope_scaling"]["original_max_position_embeddings"] = 1024;
  EXPECT_EQ(Parsed(json).rope_scaling, config.rope_scaling);

  json["rope_scaling"].erase("original_max_position_embeddings");
  EXPECT_THAT(std::string(ParseModelConfig(json).status().message()),
              HasSubstr("in 'rope_scaling': field 'factor' is missing"));
  json["rope_scaling"]["factor"] = 4;
  json["max_position_embeddings"] = 1024;
  EXPECT_EQ(Parsed(json).rope_scaling, config.rope_scaling);
  EXPECT_EQ(Parsed(json).positions_max, 4096);
  json["rope_scaling"]["attention_factor"] = 1.5;
  EXPECT_EQ(Parsed(json).rope_scaling.attention_factor, 1.5);
}

TEST(ModelConfigTest, AddsTheEndsOfTextOfTheGenerationConfig) {
  const TempFolder folder;
  WriteFile(folder.path() + "/config.json", With("eos_token_id", 2).dump());
  EXPECT_THAT(LoadModelConfig(folder.path())->eos_ids, ElementsAre(2));
  WriteFile(folder.path() + "/generation_config.json", R"({"eos_token_id": [3, 2]})");
  EXPECT_THAT(LoadModelConfig(folder.path())->eos_ids, ElementsAre(2, 3));
  WriteFile(folder.path() + "/generation_config.json", R"({"eos_token_id": 1000})");
  EXPECT_THAT(std::string(LoadModelConfig(folder.path()).status().message()),
              HasSubstr("generation_config.json: field 'eos_token_id': 1000"));
  WriteFile(folder.path() + "/config.json", With("hidden_size", 0).dump());
  EXPECT_THAT(std::string(LoadModelConfig(folder.path()).status().message()),
              HasSubstr("config.json: field 'hidden_size': 0"));
}

}  // namespace
}  // namespace chorale
