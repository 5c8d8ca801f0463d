// Biases, norms and whole matrices of adapters: what is refused, what names an adapter, what a
// reader may have; and DoRA on bases in few bits. adapter_forms.py judges what they compute.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/formats/quantize.h"
#include "model/checkpoint/quantized_tensor.h"
#include "model/checkpoint/random_checkpoint.h"
#include "model/linears.h"
#include "model/module.h"
#include "tests/model/checkpoint/safetensors_file.h"
#include "tests/model/model_run.h"
#include "tests/model/plain_forward.h"
#include "tests/testing/temp_folder.h"
#include "tests/testing/tiny_model.h"

namespace chorale {
namespace {

using testing::HasSubstr;

constexpr int kRank = 2;
constexpr float kScale = 2;

FileTensor TensorOf(const std::string& name, std::vector<int64_t> shape,
                    const std::vector<float>& values) {
  return {name, "F32", std::move(shape),
          std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4)};
}

FileTensor Wave(const std::string& name, std::vector<int64_t> shape, int salt, float middle = 0) {
  std::vector<float> values(shape[0] * (shape.size() > 1 ? shape[1] : 1));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = middle + 0.1f * std::sin(static_cast<float>(i * 7 + salt));
  }
  return TensorOf(name, std::move(shape), values);
}

std::vector<float> Floats(const FileTensor& tensor) {
  std::vector<float> values(tensor.bytes.size() / 4);
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

// The base has biases of attention and norms of heads.
ModelConfig BaseConfig() {
  ModelConfig config = TinyConfig();
  config.qkv_bias = config.o_bias = true;
  config.tied_embeddings = false;
  return config;
}

class AdapterPartsTest : public testing::Test {
 protected:
  AdapterPartsTest() : pool_(1) {
    EXPECT_TRUE(WriteRandomCheckpoint(folder_.path(), config_, kernels::DType::kF32, 11).ok());
    auto base = Transformer::Load(
        folder_.path(),
        {.kernels = *kernels::FindKernels("reference"), .dtype = kernels::DType::kF32}, pool_);
    EXPECT_TRUE(base.ok()) << base.status();
    base_ = *std::move(base);
  }

  // The update of every layer's linear.
  std::vector<FileTensor> UpdateOf(Linear linear) const {
    std::vector<FileTensor> tensors;
    const LinearShape shape = ShapeOf(config_, linear);
    for (int layer = 0; layer < config_.layers; ++layer) {
      const std::string module = ModuleName(layer, linear);
      tensors.push_back(Wave(module + ".lora_A.weight", {kRank, shape.in}, layer));
      tensors.push_back(Wave(module + ".lora_B.weight", {shape.out, kRank}, layer + 5));
    }
    return tensors;
  }
  // Of every layer, under `end`.
  template <typename Part>
  std::vector<FileTensor> OfLayers(Part part, const std::string& end, int size, float middle = 0) {
    std::vector<FileTensor> tensors;
    for (int layer = 0; layer < config_.layers; ++layer) {
      tensors.push_back(Wave(ModuleName(layer, part) + end, {size}, layer + 9, middle));
    }
    return tensors;
  }
  // As the base has it.
  FileTensor OfBase(const std::string& name) const {
    for (const FileTensor& tensor : TensorsOf(**Checkpoint::Open(folder_.path()))) {
      if (tensor.name == name) return tensor;
    }
    ADD_FAILURE() << name;
    return {};
  }

  absl::StatusOr<std::shared_ptr<const Adapter>> Load(const Transformer& base, const Json& extra,
                                                      const std::vector<FileTensor>& tensors) {
    const TempFolder folder;
    Json json = {{"peft_type", "LORA"},
                 {"r", kRank},
                 {"lora_alpha", kScale * kRank},
                 {"target_modules", {"q_proj"}}};
    if (!extra.is_null()) json.update(extra);
    WriteFile(folder.path() + "/adapter_config.json", json.dump());
    WriteFile(folder.path() + "/adapter_model.safetensors", SafetensorsBytes(tensors));
    auto adapter = base.LoadAdapter(folder.path(), pool_);
    if (!adapter.ok()) return adapter.status();
    return *std::move(adapter);
  }
  // An update of q_proj, and this.
  absl::StatusOr<std::shared_ptr<const Adapter>> LoadWith(const Json& extra,
                                                          const std::vector<FileTensor>& more) {
    std::vector<FileTensor> tensors = UpdateOf(Linear::kQ);
    tensors.insert(tensors.end(), more.begin(), more.end());
    return Load(*base_, extra, tensors);
  }
  std::shared_ptr<const Adapter> MustLoad(const Json& extra, const std::vector<FileTensor>& more) {
    auto adapter = LoadWith(extra, more);
    EXPECT_TRUE(adapter.ok()) << adapter.status();
    return *std::move(adapter);
  }
  std::vector<FileTensor> BiasesOfBase() const {
    std::vector<FileTensor> tensors;
    for (int layer = 0; layer < config_.layers; ++layer) {
      for (const Linear linear : {Linear::kQ, Linear::kK, Linear::kV, Linear::kO}) {
        tensors.push_back(OfBase(ModuleName(layer, linear) + ".bias"));
      }
    }
    return tensors;
  }

  const ModelConfig config_ = BaseConfig();
  kernels::ThreadPool pool_;
  TempFolder folder_;
  std::shared_ptr<const Transformer> base_;
};

struct Refusal {
  Json extra;
  std::vector<FileTensor> more;
  absl::StatusCode code;
  std::string message;
};

TEST_F(AdapterPartsTest, RefusesBiasesByName) {
  const std::string q = "model.layers.0.self_attn.q_proj", up = "model.layers.0.mlp.up_proj";
  const int q_size = config_.q_size();
  const Json own = {{"lora_bias", true}}, all = {{"bias", "all"}}, some = {{"bias", "lora_only"}};
  const auto kInvalid = absl::StatusCode::kInvalidArgument;
  const std::vector<Refusal> kRefusals = {
      {{{"lora_bias", 1}}, {}, kInvalid, "field 'lora_bias': expected true or false, found 1"},
      {{{"lora_bias", true}, {"use_dora", true}},
       {},
       kInvalid,
       "'lora_bias': true beside use_dora"},
      {own, {}, absl::StatusCode::kNotFound, q + ".lora_B.bias' is missing"},
      {own, {Wave(q + ".lora_B.bias", {3}, 0)}, kInvalid, q + ".lora_B.bias': expected shape"},
      {{}, {Wave(q + ".lora_B.bias", {q_size}, 0)}, kInvalid, q + ".lora_B.bias' belongs to no"},
      {{}, {Wave(q + ".lora_A.bias", {kRank}, 0)}, kInvalid, q + ".lora_A.bias' belongs to no"},
      {{{"lora_bias", true}, {"target_modules", {"embed_tokens"}}},
       {},
       absl::StatusCode::kUnimplemented,
       "field 'lora_bias': not supported for embed_tokens"},
      {{{"bias", "some"}},
       {},
       kInvalid,
       "field 'bias': \"some\"; expected \"none\", \"lora_only\""},
      {{{"bias", true}}, {}, kInvalid, "field 'bias': true; expected \"none\""},
      {all, {}, absl::StatusCode::kNotFound, q + ".bias' is missing"},
      {all, {Wave(q + ".bias", {3}, 0)}, kInvalid, q + ".bias': expected shape"},
      {{}, {Wave(q + ".bias", {q_size}, 0)}, kInvalid, q + ".bias' belongs to no target module"},
      {some,
       {Wave("model.layers.1.self_attn.k_proj.bias", {config_.kv_size()}, 0)},
       kInvalid,
       "k_proj.bias' belongs to no target module"},
      {some, {Wave(up + ".bias", {config_.ffn}, 0)}, kInvalid, up + ".bias' belongs to no target"},
      {some,
       {Wave(q + ".bias", {q_size}, 0), Wave(q + ".base_layer.bias", {q_size}, 1)},
       kInvalid,
       "are the same part of one module, and differ"},
  };
  for (const auto& [extra, more, code, message] : kRefusals) {
    const absl::Status status = LoadWith(extra, more).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST_F(AdapterPartsTest, RefusesModulesThatCannotBeSavedWhole) {
  const auto refusal = [&](const Json& names, const std::vector<FileTensor>& more = {}) {
    const auto adapter = LoadWith({{"modules_to_save", names}}, more);
    EXPECT_FALSE(adapter.ok()) << names;
    return std::string(adapter.status().message());
  };
  EXPECT_THAT(refusal({"o_proj"}), HasSubstr("field 'modules_to_save': 'o_proj' is not supported, "
                                             "it means 'model.layers.0.self_attn.o_proj' too; "));
  EXPECT_THAT(refusal({"proj"}), HasSubstr("'proj' is not supported"));
  EXPECT_THAT(refusal({"norm", "mlp"}), HasSubstr("it means 'model.layers.0.mlp' too"));
  EXPECT_THAT(refusal({"layers.1"}), HasSubstr("it means 'model.layers.1' too"));
  EXPECT_THAT(refusal({"model"}), HasSubstr("it means 'model' too"));
  EXPECT_THAT(refusal({"score"}),
              HasSubstr("'score' is not supported; lm_head, embed_tokens and norms are"));
  EXPECT_THAT(refusal(std::vector<std::string>(4097, "norm")),
              HasSubstr("field 'modules_to_save': 4097 names, more than 4096"));
  EXPECT_THAT(refusal({"q_norm"}), HasSubstr("layers.0.self_attn.q_norm.weight' is missing"));
  EXPECT_THAT(refusal({"model.norm"}, {Wave("model.norm.weight", {3}, 0)}),
              HasSubstr("'model.norm.weight': expected shape [32], found [3]"));
  const auto unlisted = LoadWith({}, {Wave("model.norm.weight", {config_.hidden}, 0)});
  EXPECT_THAT(std::string(unlisted.status().message()),
              HasSubstr("'model.norm.weight' belongs to no target module"));
}

TEST_F(AdapterPartsTest, WhatEqualsTheBaseIsAsIfItWereNotThere) {
  const std::shared_ptr<const Adapter> plain = MustLoad({}, {});
  std::vector<FileTensor> zeros;
  for (int layer = 0; layer < config_.layers; ++layer) {
    zeros.push_back(TensorOf(ModuleName(layer, Linear::kQ) + ".lora_B.bias", {config_.q_size()},
                             std::vector<float>(config_.q_size(), -0.0f)));
  }
  const std::vector<FileTensor> whole = {OfBase("model.embed_tokens.weight"),
                                         OfBase("lm_head.weight"), OfBase("model.norm.weight")};
  for (const auto& twin :
       {MustLoad({{"lora_bias", true}}, zeros), MustLoad({{"bias", "all"}}, BiasesOfBase()),
        MustLoad({{"modules_to_save", {"embed_tokens", "lm_head", "model.norm"}}}, whole),
        MustLoad({}, {whole[0], whole[1]})}) {
    EXPECT_EQ(twin->digest, plain->digest);
    EXPECT_EQ(twin->own_embedding.rows + twin->own_output.rows, 0);
    EXPECT_TRUE(twin->own_norm.empty());
    for (const auto& layer : twin->layers) {
      for (const LowRank& part : layer) EXPECT_TRUE(part.shift.empty());
    }
  }
  std::vector<FileTensor> biases = BiasesOfBase();
  biases[4].bytes[0] ^= 1;
  EXPECT_NE(MustLoad({{"bias", "all"}}, biases)->digest, plain->digest);
  FileTensor embedding = whole[0];
  embedding.bytes[0] ^= 1;
  const auto other = MustLoad({}, {embedding, whole[1]});
  EXPECT_NE(other->digest, plain->digest);
  EXPECT_EQ(other->own_embedding.rows, config_.vocab);
  EXPECT_EQ(other->own_output.rows, 0);
}

TEST_F(AdapterPartsTest, RowsOfABatchDoNotFeelEachOthersBiasesAndNorms) {
  std::vector<FileTensor> norms = OfLayers(LayerNorm::kAttention, ".weight", config_.hidden, 1);
  for (const LayerNorm norm : {LayerNorm::kQ, LayerNorm::kK}) {
    const auto heads = OfLayers(norm, ".weight", config_.head_dim, 1);
    norms.insert(norms.end(), heads.begin(), heads.end());
  }
  norms.push_back(Wave("model.norm.weight", {config_.hidden}, 3, 1));
  const Json names = {"input_layernorm", "q_norm", "k_norm", "model.norm"};
  std::vector<FileTensor> biases = OfLayers(Linear::kQ, ".bias", config_.q_size());
  for (const Linear linear : {Linear::kK, Linear::kV, Linear::kO}) {
    const auto more = OfLayers(linear, ".bias", ShapeOf(config_, linear).out);
    biases.insert(biases.end(), more.begin(), more.end());
  }
  const std::vector<std::shared_ptr<const Adapter>> adapters = {
      nullptr,
      nullptr,
      MustLoad({{"bias", "all"}}, biases),
      MustLoad({{"modules_to_save", names}}, norms),
      nullptr,
      MustLoad({{"lora_bias", true}}, OfLayers(Linear::kQ, ".lora_B.bias", config_.q_size())),
      MustLoad({}, {})};
  const std::vector<TokenId> tokens = Tokens(20, 5);
  Memory memory(*base_, static_cast<int>(2 * adapters.size()));
  std::vector<std::vector<kernels::BlockId>> blocks;
  std::vector<BatchSequence> batch;
  for (int i = 0; i < static_cast<int>(adapters.size()); ++i) blocks.push_back({2 * i, 2 * i + 1});
  for (size_t i = 0; i < adapters.size(); ++i) {
    batch.push_back({.tokens = tokens,
                     .blocks = blocks[i],
                     .adapter = adapters[i].get(),
                     .wants_logits = true});
  }
  const std::vector<float> together = RunBatch(*base_, batch, memory.kv());
  const std::vector<float> plain = LogitsOf(*base_, tokens);
  for (size_t i = 0; i < adapters.size(); ++i) {
    const std::vector<float> alone = LogitsOf(*base_, tokens, 0, adapters[i].get());
    EXPECT_EQ(alone == plain, adapters[i] == nullptr) << i;
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + i * config_.vocab)) << i;
  }
}

TEST_F(AdapterPartsTest, AReaderMayChangeAllButWhatMakesKeysAndValues) {
  const Module base = {base_, nullptr};
  const auto read = [&](std::shared_ptr<const Adapter> adapter) {
    return MakeModel("m", Mode::kIcarus, base, {base_, std::move(adapter)}, base).status();
  };
  const auto with_bias_of = [&](Linear linear) {
    std::vector<FileTensor> biases = BiasesOfBase();
    biases[static_cast<int>(linear)].bytes[0] ^= 1;  // of the first layer
    return MustLoad({{"bias", "all"}}, biases);
  };
  EXPECT_TRUE(read(MustLoad({{"bias", "all"}}, BiasesOfBase())).ok());
  EXPECT_TRUE(read(with_bias_of(Linear::kQ)).ok());
  EXPECT_THAT(std::string(read(with_bias_of(Linear::kK)).message()),
              HasSubstr("model 'm': mode icarus: the adapter changes "
                        "'model.layers.0.self_attn.k_proj', but keys and values are written by the "
                        "base alone"));
  EXPECT_THAT(std::string(read(with_bias_of(Linear::kV)).message()),
              HasSubstr("'model.layers.0.self_attn.v_proj'"));
  const auto k_norms = MustLoad({{"modules_to_save", {"k_norm"}}},
                                OfLayers(LayerNorm::kK, ".weight", config_.head_dim, 1));
  EXPECT_THAT(std::string(read(k_norms).message()), HasSubstr("'model.layers.0.self_attn.k_norm'"));

  std::vector<FileTensor> norms = OfLayers(LayerNorm::kQ, ".weight", config_.head_dim, 1);
  for (const LayerNorm norm : {LayerNorm::kAttention, LayerNorm::kFfn}) {
    const auto more = OfLayers(norm, ".weight", config_.hidden, 1);
    norms.insert(norms.end(), more.begin(), more.end());
  }
  const auto reader = MustLoad({{"modules_to_save", {"layernorm", "q_norm"}}}, norms);
  EXPECT_TRUE(read(reader).ok());
  // It writes what the base writes, and predicts otherwise.
  const std::vector<TokenId> tokens = Tokens(20, 5);
  const std::vector<kernels::BlockId> blocks = {0, 1};
  Memory of_base(*base_, 2), of_both(*base_, 2);
  BatchSequence sequence = {.tokens = tokens, .blocks = blocks, .wants_logits = true};
  const std::vector<float> plain = RunBatch(*base_, {&sequence, 1}, of_base.kv());
  sequence.reader = reader.get();
  EXPECT_NE(RunBatch(*base_, {&sequence, 1}, of_both.kv()), plain);
  EXPECT_EQ(std::memcmp(of_base.kv().data, of_both.kv().data, 2 * base_->kv_shape().block_bytes()),
            0);
}

class AdapterOnFewBits : public AdapterPartsTest,
                         public testing::WithParamInterface<kernels::DType> {
 protected:
  // The base's tensors as they read after rounding to few bits.
  std::vector<FileTensor> Rounded() {
    std::vector<FileTensor> tensors = TensorsOf(**Checkpoint::Open(folder_.path()));
    for (FileTensor& tensor : tensors) {
      if (tensor.shape.size() != 2) continue;
      std::vector<float> values = Floats(tensor);
      const int rows = static_cast<int>(tensor.shape[0]), cols = static_cast<int>(tensor.shape[1]);
      const kernels::QuantizedMatrix codes =
          kernels::Quantize({.data = values.data(), .rows = rows, .cols = cols},
                            QuantizationOf(tensor.name, GetParam()), pool_);
      for (int row = 0; row < rows; ++row) {
        kernels::DequantizeRow(codes.view(), row, values.data() + int64_t{row} * cols);
      }
      tensor = TensorOf(tensor.name, tensor.shape, values);
    }
    return tensors;
  }

  // The rows of W + scale B A, each as long as its magnitude; and what they were multiplied with.
  static std::vector<double> Merge(FileTensor& weight, const std::vector<float>& a,
                                   const std::vector<float>& b,
                                   const std::vector<float>& magnitude) {
    const int64_t rows = weight.shape[0], cols = weight.shape[1];
    std::vector<float> w = Floats(weight);
    std::vector<double> gains(rows);
    for (int64_t row = 0; row < rows; ++row) {
      std::vector<double> updated(cols);
      double squares = 0;
      for (int64_t col = 0; col < cols; ++col) {
        updated[col] = w[row * cols + col];
        for (int r = 0; r < kRank; ++r) {
          updated[col] += double{kScale} * b[row * kRank + r] * a[r * cols + col];
        }
        squares += updated[col] * updated[col];
      }
      gains[row] = magnitude[row] / std::sqrt(squares);
      for (int64_t col = 0; col < cols; ++col) {
        w[row * cols + col] = static_cast<float>(gains[row] * updated[col]);
      }
    }
    weight = TensorOf(weight.name, weight.shape, w);
    return gains;
  }

  // The plain pass over these weights.
  std::vector<double> PlainOf(const std::vector<FileTensor>& tensors) {
    const TempFolder folder;
    std::filesystem::copy_file(folder_.path() + "/config.json", folder.path() + "/config.json");
    WriteFile(folder.path() + "/model.safetensors", SafetensorsBytes(tensors));
    return PlainLogits(folder.path(), Tokens(20, 5)).back();
  }
  static double Off(const std::vector<float>& found, const std::vector<double>& expected) {
    double squares = 0, all = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      squares += std::pow(found[i] - expected[i], 2);
      all += std::pow(expected[i], 2);
    }
    return std::sqrt(squares / all);
  }
};

// All but the reference round activations to 8 bits: a loose bound for them, as in quantized_test.
TEST_P(AdapterOnFewBits, DoraActsAsThePlainPassOverTheRoundedWeights) {
  constexpr Linear kTargets[] = {Linear::kQ, Linear::kV, Linear::kO, Linear::kUp, Linear::kDown};
  std::vector<FileTensor> adapter_tensors;
  std::vector<FileTensor> merged = Rounded();
  std::map<std::pair<int, Linear>, std::vector<double>> gains;
  for (const Linear linear : kTargets) {
    const std::vector<FileTensor> update = UpdateOf(linear);
    const std::vector<FileTensor> magnitudes =
        OfLayers(linear, ".lora_magnitude_vector", ShapeOf(config_, linear).out, 0.7f);
    for (int layer = 0; layer < config_.layers; ++layer) {
      for (FileTensor& tensor : merged) {
        if (tensor.name != ModuleName(layer, linear) + ".weight") continue;
        gains[{layer, linear}] = Merge(tensor, Floats(update[2 * layer]),
                                       Floats(update[2 * layer + 1]), Floats(magnitudes[layer]));
      }
    }
    adapter_tensors.insert(adapter_tensors.end(), update.begin(), update.end());
    adapter_tensors.insert(adapter_tensors.end(), magnitudes.begin(), magnitudes.end());
  }
  const std::vector<double> expected = PlainOf(merged);
  for (const kernels::Kernels* table : kernels::AvailableKernels()) {
    const auto base =
        Transformer::Load(folder_.path(), {.kernels = table, .quantization = GetParam()}, pool_);
    ASSERT_TRUE(base.ok()) << base.status();
    const auto adapter =
        Load(**base,
             {{"use_dora", true},
              {"target_modules", {"q_proj", "v_proj", "o_proj", "up_proj", "down_proj"}}},
             adapter_tensors);
    ASSERT_TRUE(adapter.ok()) << adapter.status();
    for (const auto& [place, gain] : gains) {
      const auto& found = (*adapter)->layers[place.first][static_cast<int>(place.second)].gain;
      ASSERT_EQ(found.size(), gain.size());
      for (size_t i = 0; i < gain.size(); ++i) {
        EXPECT_NEAR(found[i] / gain[i], 1, 1e-5)
            << ModuleName(place.first, place.second) << " " << i;
      }
    }
    const double off = Off(LogitsOf(**base, Tokens(20, 5), 0, adapter->get()), expected);
    EXPECT_LT(off, std::string(table->name) == "reference" ? 1e-5 : 0.03) << table->name;
    EXPECT_GT(Off(LogitsOf(**base, Tokens(20, 5)), expected), 0.3) << table->name;
  }
}

// The base's matrices are in few bits, those of the file are not.
TEST_P(AdapterOnFewBits, SavedEmbeddingsOfTheBaseAreDropped) {
  std::vector<FileTensor> tensors = UpdateOf(Linear::kQ);
  for (const kernels::Kernels* table : kernels::AvailableKernels()) {
    const auto base =
        Transformer::Load(folder_.path(), {.kernels = table, .quantization = GetParam()}, pool_);
    ASSERT_TRUE(base.ok()) << base.status();
    const auto load = [&](const std::vector<FileTensor>& more) {
      std::vector<FileTensor> all = tensors;
      all.insert(all.end(), more.begin(), more.end());
      return *Load(**base, {}, all);
    };
    FileTensor embedding = OfBase("model.embed_tokens.weight");
    const auto plain = load({});
    const auto along = load({embedding, OfBase("lm_head.weight")});
    EXPECT_EQ(along->digest, plain->digest);
    EXPECT_EQ(along->own_embedding.rows + along->own_output.rows, 0);
    embedding = Wave(embedding.name, embedding.shape, 1);
    EXPECT_EQ(load({embedding})->own_embedding.rows, config_.vocab);
  }
}

INSTANTIATE_TEST_SUITE_P(Bits, AdapterOnFewBits,
                         testing::Values(kernels::DType::kI8, kernels::DType::kI4),
                         [](const auto& info) { return kernels::NameOf(info.param); });

}  // namespace
}  // namespace chorale
