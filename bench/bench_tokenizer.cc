// Megabytes of text a second that one core encodes.
//
//   bench_tokenizer TOKENIZER.json TEXT
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <vector>

#include "text/tokenizer.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s TOKENIZER.json TEXT\n", argv[0]);
    return 2;
  }
  using Clock = std::chrono::steady_clock;
  const auto load_begin = Clock::now();
  const auto tokenizer = chorale::Tokenizer::Load(argv[1]);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.status().ToString().c_str());
    return 1;
  }
  const std::chrono::duration<double> load = Clock::now() - load_begin;
  std::ifstream file(argv[2], std::ios::binary);
  std::ostringstream buffer;
  buffer << file.rdbuf();
  const std::string text = buffer.str();
  std::vector<double> rates;
  size_t ids = 0;
  for (int i = 0; i < 11; ++i) {
    const auto begin = Clock::now();
    const auto encoded = (*tokenizer)->Encode(text, false);
    const std::chrono::duration<double> seconds = Clock::now() - begin;
    if (!encoded.ok()) {
      std::fprintf(stderr, "%s\n", encoded.status().ToString().c_str());
      return 1;
    }
    ids = encoded->size();
    rates.push_back(text.size() / seconds.count() / 1e6);
  }
  std::sort(rates.begin(), rates.end());
  std::printf("%.1f MB/s (median of %zu; %zu bytes, %zu ids; loaded in %.2f s)\n",
              rates[rates.size() / 2], rates.size(), text.size(), ids, load.count());
}
