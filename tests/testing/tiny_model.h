// A tiny random model for tests, with a tokenizer of bytes.
#pragma once

#include <string>

#include "model/checkpoint/config.h"

namespace chorale {

inline constexpr int kTinyVocab = 260;
inline constexpr int kTinyContext = 2048;

// Two layers, grouped queries, q/k norm; token 7 ends a text.
ModelConfig TinyConfig();

// A tokenizer.json of the 256 bytes and a few merges, ids 0 to 259, without special tokens.
std::string ByteTokenizerJson();

// Writes config.json, model.safetensors and tokenizer.json into an existing folder.
void WriteTinyModel(const std::string& folder);

}  // namespace chorale
