#include "tests/testing/tiny_model.h"

#include <fstream>

#include "base/check.h"
#include "base/json.h"
#include "model/checkpoint/random_checkpoint.h"

namespace chorale {
namespace {

// How GPT-2's byte-level BPE writes a byte as a code point.
int CodePointOf(int byte) {
  const auto printable = [](int b) {
    return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
  };
  if (printable(byte)) return byte;
  int unprintable_before = 0;
  for (int b = 0; b < byte; ++b) unprintable_before += !printable(b);
  return 256 + unprintable_before;
}

std::string Utf8(int code_point) {
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 63))};
}

}  // namespace

ModelConfig TinyConfig() {
  return {.architecture = "Qwen3ForCausalLM",
          .layers = 2,
          .hidden = 32,
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 8,
          .ffn = 48,
          .vocab = kTinyVocab,
          .positions_max = kTinyContext,
          .norm_eps = 1e-6f,
          .tied_embeddings = true,
          .qk_norm = true,
          .eos_ids = {7}};
}

std::string ByteTokenizerJson() {
  Json vocab = Json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[Utf8(CodePointOf(byte))] = byte;
  Json merges = Json::array();
  int next = 256;
  for (const auto& [left, right] : {std::pair{"t", "h"}, {"th", "e"}, {"i", "n"}, {"a", "n"}}) {
    merges.push_back(std::string(left) + " " + right);
    vocab[std::string(left) + right] = next++;
  }
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  const Json tokenizer = {{"version", "1.0"},
                          {"truncation", nullptr},
                          {"padding", nullptr},
                          {"added_tokens", Json::array()},
                          {"normalizer", nullptr},
                          {"pre_tokenizer", byte_level},
                          {"post_processor", nullptr},
                          {"decoder", byte_level},
                          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}}};
  return tokenizer.dump();
}

void WriteTinyModel(const std::string& folder) {
  const absl::Status status =
      WriteRandomCheckpoint(folder, TinyConfig(), kernels::DType::kF32, /*seed=*/1);
  CHECK(status.ok()) << status.message();
  std::ofstream file(folder + "/tokenizer.json");
  file << ByteTokenizerJson() << std::flush;
  CHECK(file.good()) << folder;
}

}  // namespace chorale
