// Prints what a model says to some tokens with an adapter, for adapter_forms.py:
//
//   adapter_logits BASE KERNELS TOKEN,TOKEN,... ADAPTER...
//
// One line of JSON for each adapter: {"digest": ..., "logits": [...]}, or {"error": ...}.
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "base/json.h"
#include "model/transformer.h"
#include "tests/model/model_run.h"

int main(int argc, char** argv) {
  using namespace chorale;
  CHECK(argc > 4) << "see the head of this file";
  kernels::ThreadPool pool(1);
  const auto table = kernels::FindKernels(argv[2]);
  CHECK(table.ok()) << table.status().message();
  const auto model = Transformer::Load(argv[1], {.kernels = *table}, pool);
  CHECK(model.ok()) << model.status().message();
  std::vector<TokenId> tokens;
  for (const std::string& text : std::vector<std::string>(absl::StrSplit(argv[3], ','))) {
    CHECK(absl::SimpleAtoi(text, &tokens.emplace_back())) << text;
  }
  for (int i = 4; i < argc; ++i) {
    const auto adapter = (*model)->LoadAdapter(argv[i], pool);
    if (!adapter.ok()) {
      std::cout << DumpJson({{"error", std::string(adapter.status().message())}}) << std::endl;
      continue;
    }
    const std::vector<float> logits = LogitsOf(**model, tokens, /*chunk=*/5, adapter->get());
    std::cout << DumpJson({{"digest", (*adapter)->digest.ToHex()}, {"logits", logits}})
              << std::endl;
  }
  return 0;
}
