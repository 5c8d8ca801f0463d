// Speeds of the kernels beside what the machine can do, both measured in this run.
//
//   bench_kernels [--threads N] [--kernels NAME] [--dtype f32|bf16|int8|int4] [--quick]
//                 [--only forward|matmul|weights|attention|kv]
//
// Napkin: a matmul of M rows reads its weights once, so it takes at least bytes / DRAM and at least
// 2 M weights / FLOP ceiling; the last column is that bound over the time taken. Weights rotate
// over more memory than the caches hold. Every figure is the median of interleaved rounds.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "base/random.h"
#include "bench/ceilings.h"
#include "kernels/formats/kv_codec.h"
#include "kernels/kernels.h"

namespace chorale::bench {
namespace {

using kernels::BlockId;
using kernels::DType;
using kernels::Kernels;
using kernels::PackedMatrix;
using kernels::SequenceRows;
using kernels::ThreadPool;

struct Options {
  int threads = 2;
  std::string kernels = "cpu";
  std::string dtype = "bf16";
  std::string only;
  bool quick = false;
};

struct Ceilings {
  double dram_gbps;
  double gflops;
};

double Nanoseconds(const std::function<void()>& fn) {
  const auto begin = std::chrono::steady_clock::now();
  fn();
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count();
}

// Median times of several things, taken in turns so that a busy neighbour slows all alike.
std::vector<double> Medians(int rounds, const std::vector<std::function<void()>>& fns) {
  std::vector<std::vector<double>> times(fns.size());
  for (int round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < fns.size(); ++i) times[i].push_back(Nanoseconds(fns[i]));
  }
  std::vector<double> medians;
  for (std::vector<double>& t : times) {
    std::nth_element(t.begin(), t.begin() + t.size() / 2, t.end());
    medians.push_back(t[t.size() / 2]);
  }
  return medians;
}

std::vector<float> RandomFloats(int64_t n, uint64_t stream) {
  std::vector<float> values(n);
  for (int64_t i = 0; i < n; ++i) {
    values[i] = static_cast<float>(RandomUniform(1, stream, i) - 0.5);
  }
  return values;
}

// Bytes of a matrix, scales included.
int64_t BytesOfMatrix(int rows, int cols, DType dtype) {
  if (!IsQuantized(dtype)) return int64_t{rows} * cols * BytesOf(dtype);
  return rows * (kernels::CodeBytesOfRow(dtype, cols) + 2 * kernels::QuantGroups(cols));
}

// Codes of any value; quicker than rounding random weights.
PackedMatrix RandomQuantizedMatrix(const Kernels& k, int rows, int cols, DType dtype,
                                   ThreadPool& pool) {
  kernels::QuantizedMatrix w = {.rows = rows, .cols = cols, .dtype = dtype};
  w.codes.resize(rows * kernels::CodeBytesOfRow(dtype, cols));
  uint32_t state = 1;
  for (uint8_t& code : w.codes) {
    state = state * 1664525 + 1013904223;  // Numerical Recipes' generator
    code = static_cast<uint8_t>(state >> 24);
  }
  w.scales.assign(int64_t{rows} * kernels::QuantGroups(cols), kernels::F32ToBF16(0.01f));
  return k.pack_quantized(std::vector<kernels::QuantizedView>{w.view()}, pool);
}

PackedMatrix RandomMatrix(const Kernels& k, int rows, int cols, DType dtype, ThreadPool& pool) {
  if (IsQuantized(dtype)) return RandomQuantizedMatrix(k, rows, cols, dtype, pool);
  // One row's worth of random values, shifted from row to row: quick, and not constant.
  std::vector<float> noise = RandomFloats(cols + 4096, rows);
  std::vector<kernels::MatrixView> parts;
  for (int r = 0; r < rows; ++r) {
    parts.push_back(
        {.data = noise.data() + r % 4096, .dtype = DType::kF32, .rows = 1, .cols = cols});
  }
  return k.pack(parts, dtype, pool);
}

void BenchMatmul(const Kernels& k, DType dtype, const Ceilings& ceilings, int rounds,
                 ThreadPool& pool) {
  constexpr int64_t kWorkingSet = int64_t{192} << 20;
  std::printf("\nmatmul %s     M       us    GB/s  GFLOP/s  of the bound\n", NameOf(dtype));
  for (auto [rows, cols] : {std::pair{2304, 768}, {768, 2048}, {32000, 768}}) {
    const int64_t bytes = BytesOfMatrix(rows, cols, dtype);
    std::vector<PackedMatrix> copies;
    for (int64_t total = 0; total < kWorkingSet; total += bytes) {
      copies.push_back(RandomMatrix(k, rows, cols, dtype, pool));
    }
    const std::vector<int> batch = {1, 2, 4, 8, 16, 32, 128, 512};
    const std::vector<float> x = RandomFloats(512 * cols, 2);
    std::vector<float> y(512 * int64_t{rows});
    size_t next = 0;
    std::vector<std::function<void()>> fns;
    for (int m : batch) {
      fns.push_back([&, m, rows = rows, cols = cols] {
        k.matmul({.w = copies[next++ % copies.size()],
                  .x = x.data(),
                  .m = m,
                  .x_stride = cols,
                  .y = y.data(),
                  .y_stride = rows},
                 pool);
      });
    }
    const std::vector<double> ns = Medians(rows > 10000 ? rounds : 4 * rounds, fns);
    for (size_t i = 0; i < batch.size(); ++i) {
      const double flops = 2.0 * batch[i] * rows * cols;
      const double bound = std::max(bytes / ceilings.dram_gbps, flops / ceilings.gflops);
      std::printf("%5d x %-5d %4d %8.1f %7.1f %8.0f %8.0f %%\n", rows, cols, batch[i], ns[i] / 1e3,
                  bytes / ns[i], flops / ns[i], 100 * bound / ns[i]);
    }
  }
}

// Matmuls over the weights of a layer, one after the other: their time beside that of bf16.
void BenchWeights(const Kernels& k, const Ceilings& ceilings, int rounds, ThreadPool& pool) {
  constexpr int64_t kWorkingSet = int64_t{192} << 20;
  constexpr DType kDTypes[] = {DType::kBF16, DType::kI8, DType::kI4};
  struct Shapes {
    const char* name;
    std::vector<std::pair<int, int>> matrices;
  };
  const Shapes shapes[] = {
      {"2048 x 768", {{2048, 768}}},
      {"768 x 2048", {{768, 2048}}},
      {"layer, 125 M", {{1280, 768}, {768, 768}, {4096, 768}, {768, 2048}}},
      {"layer, 1.1 B", {{2560, 2048}, {2048, 2048}, {11264, 2048}, {2048, 5632}}}};
  std::printf("\nweights           M          us    GB/s  of DRAM  Gop/s  over bf16\n");
  for (const Shapes& shape : shapes) {
    std::vector<std::vector<PackedMatrix>> weights(std::size(kDTypes));
    std::vector<int64_t> bytes(std::size(kDTypes));
    int64_t elements = 0;
    for (auto [rows, cols] : shape.matrices) elements += int64_t{rows} * cols;
    for (size_t d = 0; d < std::size(kDTypes); ++d) {
      for (auto [rows, cols] : shape.matrices) bytes[d] += BytesOfMatrix(rows, cols, kDTypes[d]);
      for (int64_t total = 0; total < kWorkingSet; total += bytes[d]) {
        for (auto [rows, cols] : shape.matrices) {
          weights[d].push_back(RandomMatrix(k, rows, cols, kDTypes[d], pool));
        }
      }
    }
    const std::vector<int> batch = {1, 8, 32, 512};
    const std::vector<float> x = RandomFloats(512 * 5632, 2);
    std::vector<float> y(512 * 11264);
    std::vector<size_t> next(std::size(kDTypes));
    std::vector<std::function<void()>> fns;
    for (int m : batch) {
      for (size_t d = 0; d < std::size(kDTypes); ++d) {
        fns.push_back([&, m, d] {
          for (size_t i = 0; i < shape.matrices.size(); ++i) {
            const PackedMatrix& w = weights[d][next[d]++ % weights[d].size()];
            k.matmul({.w = w,
                      .x = x.data(),
                      .m = m,
                      .x_stride = w.cols,
                      .y = y.data(),
                      .y_stride = w.rows},
                     pool);
          }
        });
      }
    }
    const std::vector<double> ns = Medians(2 * rounds, fns);
    for (size_t i = 0; i < ns.size(); ++i) {
      const size_t d = i % std::size(kDTypes);
      const int m = batch[i / std::size(kDTypes)];
      const double gbps = static_cast<double>(bytes[d]) / ns[i];
      std::printf("%-12s %s %4d %10.1f %7.1f %6.0f %% %6.0f %9.2f x\n", shape.name,
                  NameOf(kDTypes[d]), m, ns[i] / 1e3, gbps, 100 * gbps / ceilings.dram_gbps,
                  2.0 * m * static_cast<double>(elements) / ns[i], ns[i - d] / ns[i]);
    }
  }
}

// Keys and values are never quantised.
DType KvDTypeFor(DType weights) { return IsQuantized(weights) ? DType::kBF16 : weights; }

// Sequences of equal context over one pool of blocks.
class AttentionBench {
 public:
  AttentionBench(const Kernels& k, DType dtype, int sequences, int context, int rows)
      : kernels_(k), rows_(rows), context_(context) {
    shape_ = {.layers = 12, .kv_heads = 4, .head_dim = 64, .dtype = dtype};
    const int blocks = (context + rows + kernels::kBlockTokens - 1) / kernels::kBlockTokens;
    memory_ = kernels::Buffer(sequences * blocks * shape_.block_bytes());
    tables_.resize(sequences);
    for (int s = 0; s < sequences; ++s) {
      for (int b = 0; b < blocks; ++b) tables_[s].push_back(b * sequences + s);
      sequences_.push_back(
          {.row_begin = s * rows, .rows = rows, .context = context, .blocks = tables_[s].data()});
    }
    q_ = RandomFloats(int64_t{sequences} * rows * kWidth, 3);
    out_.resize(q_.size());
  }

  void Run(ThreadPool& pool) {
    kernels_.attention({.q = q_.data(),
                        .q_stride = kWidth,
                        .out = out_.data(),
                        .out_stride = kWidth,
                        .heads = 12,
                        .scale = 0.125f,
                        .sequences = sequences_,
                        .layer = layer_++ % shape_.layers,
                        .kv = {.data = memory_.data(), .shape = shape_}},
                       pool);
  }

  double kv_bytes() const {
    return static_cast<double>(sequences_.size()) * (context_ + rows_) * 2 * shape_.tile_bytes() /
           kernels::kBlockTokens * shape_.kv_heads;
  }
  double flops() const {
    return 4.0 * static_cast<double>(sequences_.size()) * rows_ * (context_ + rows_ / 2.0) * kWidth;
  }

 private:
  static constexpr int kWidth = 12 * 64;
  const Kernels& kernels_;
  int rows_;
  int context_;
  int layer_ = 0;
  kernels::KvShape shape_;
  kernels::Buffer memory_;
  std::vector<std::vector<BlockId>> tables_;
  std::vector<SequenceRows> sequences_;
  std::vector<float> q_, out_;
};

void BenchAttention(const Kernels& k, DType dtype, int rounds, ThreadPool& pool) {
  std::printf(
      "\nattention %s, 12 heads, 4 kv heads of 64, one layer\n"
      "  sequences  context  rows       us    GB/s  GFLOP/s\n",
      NameOf(dtype));
  struct Case {
    int sequences, context, rows;
  };
  for (const Case& c :
       {Case{1, 128, 1}, Case{1, 1024, 1}, Case{1, 8192, 1}, Case{8, 1024, 1}, Case{32, 512, 1},
        Case{1, 0, 512}, Case{1, 1024, 512}, Case{1, 7680, 512}}) {
    AttentionBench bench(k, dtype, c.sequences, c.context, c.rows);
    const double ns = Medians(8 * rounds, {[&] { bench.Run(pool); }})[0];
    std::printf("  %9d %8d %5d %8.1f %7.1f %8.0f\n", c.sequences, c.context, c.rows, ns / 1e3,
                bench.kv_bytes() / ns, bench.flops() / ns);
  }
}

// Rounding and packing of K/V by one thread, over more blocks than the caches hold, beside a copy.
void BenchKvCodec(DType dtype, int rounds) {
  constexpr int kRows = 2048, kHeads = 8, kHeadDim = 64;
  const kernels::KvShape shape{12, kHeads / 2, kHeadDim, dtype};
  const int blocks = static_cast<int>((int64_t{192} << 20) / shape.block_bytes());
  const int64_t packed_bytes = kernels::PackedBytes(shape);
  ThreadPool one(1);
  std::vector<float> rows = RandomFloats(int64_t{kRows} * kHeads * kHeadDim, 6);
  const std::function<void()> round = [&] {
    kernels::RoundKvRows({.x = rows.data(),
                          .rows = kRows,
                          .heads = kHeads,
                          .head_dim = kHeadDim,
                          .x_stride = kHeads * kHeadDim},
                         one);
  };
  kernels::Buffer memory(blocks * shape.block_bytes()), copy(blocks * shape.block_bytes());
  kernels::Buffer packed(blocks * packed_bytes);
  // Random codes, unpacked: blocks as they are written.
  for (size_t i = 0; i < packed.bytes(); ++i) packed.data()[i] = static_cast<std::byte>(i * i % 81);
  const auto each = [&](auto fn) {
    return [&, fn] {
      for (int64_t b = 0; b < blocks; ++b) {
        const std::span block(memory.data() + b * shape.block_bytes(), shape.block_bytes());
        CHECK(fn(b, block, std::span(packed.data() + b * packed_bytes, packed_bytes)));
      }
    };
  };
  const auto pack =
      each([&](int64_t, auto block, auto codes) { return PackBlock(shape, block, codes).ok(); });
  const auto unpack =
      each([&](int64_t, auto block, auto codes) { return UnpackBlock(shape, codes, block).ok(); });
  const auto memcopy = each([&](int64_t b, auto block, auto) {
    std::memcpy(copy.data() + b * shape.block_bytes(), block.data(), block.size());
    return true;
  });
  unpack();
  const std::vector<double> ns = Medians(rounds, {round, pack, unpack, memcopy});
  const double bytes = static_cast<double>(memory.bytes());
  std::printf("\nK/V in 8 bits, one thread, blocks of %lld bytes in %s, packed %lld\n",
              static_cast<long long>(shape.block_bytes()), NameOf(dtype),
              static_cast<long long>(packed_bytes));
  std::printf("  round  %6.2f GB/s of f32\n", rows.size() * sizeof(float) / ns[0]);
  std::printf("  pack   %6.2f GB/s of blocks\n", bytes / ns[1]);
  std::printf("  unpack %6.2f GB/s of blocks\n", bytes / ns[2]);
  std::printf("  memcpy %6.2f GB/s of blocks\n", bytes / ns[3]);
}

// One forward pass of a 125 M model (768 x 12, 12 heads, 4 kv heads, ffn 2048, vocabulary 32000).
class ForwardBench {
 public:
  ForwardBench(const Kernels& k, DType dtype, ThreadPool& pool) : k_(k), dtype_(dtype) {
    for (int layer = 0; layer < kLayers; ++layer) {
      layers_.push_back(
          {RandomMatrix(k, kQkv, kDim, dtype, pool), RandomMatrix(k, kDim, kDim, dtype, pool),
           RandomMatrix(k, 2 * kFfn, kDim, dtype, pool), RandomMatrix(k, kDim, kFfn, dtype, pool)});
    }
    head_ = RandomMatrix(k, kVocab, kDim, dtype, pool);
    norm_ = RandomFloats(kDim, 4);
  }

  // Bytes of all weights.
  double weight_bytes() const {
    const int64_t layer =
        BytesOfMatrix(kQkv + kDim + 2 * kFfn, kDim, dtype_) + BytesOfMatrix(kDim, kFfn, dtype_);
    return static_cast<double>(kLayers * layer + BytesOfMatrix(kVocab, kDim, dtype_));
  }

  // A pass of `rows` new tokens for each of `sequences`, logits for every sequence if `decode`.
  std::function<void()> Pass(int sequences, int context, int rows, bool decode, ThreadPool& pool) {
    auto attention =
        std::make_shared<AttentionBench>(k_, KvDTypeFor(dtype_), sequences, context, rows);
    const int m = sequences * rows;
    auto memory = std::make_shared<std::vector<float>>(
        RandomFloats(int64_t{m} * (2 * kDim + kQkv + 3 * kFfn + kVocab * decode), 5));
    return [this, attention, memory, m, decode, &pool] {
      float* x = memory->data();
      float* h = x + int64_t{m} * kDim;
      float* qkv = h + int64_t{m} * kDim;
      float* gate_up = qkv + int64_t{m} * kQkv;
      float* act = gate_up + int64_t{m} * 2 * kFfn;
      float* logits = act + int64_t{m} * kFfn;
      const std::vector<float>& angles = norm_;
      for (int layer = 0; layer < kLayers; ++layer) {
        const Layer& l = layers_[layer];
        Norm(x, m, h, pool);
        Multiply(l.qkv, h, m, qkv, false, pool);
        for (int r = 0; r < m; ++r) {
          k_.rope({.x = qkv + int64_t{r} * kQkv,
                   .rows = 1,
                   .heads = 16,
                   .head_dim = 64,
                   .x_stride = kQkv,
                   .cos = angles.data(),
                   .sin = angles.data() + 32},
                  pool);
        }
        attention->Run(pool);
        Multiply(l.out, h, m, x, true, pool);
        Norm(x, m, h, pool);
        Multiply(l.gate_up, h, m, gate_up, false, pool);
        k_.swiglu({.gate_up = gate_up,
                   .gate_up_stride = 2 * kFfn,
                   .rows = m,
                   .dim = kFfn,
                   .out = act,
                   .out_stride = kFfn},
                  pool);
        Multiply(l.down, act, m, x, true, pool);
      }
      if (!decode) return;
      Norm(x, m, h, pool);
      Multiply(head_, h, m, logits, false, pool);
      for (int r = 0; r < m; ++r) k_.argmax(logits + int64_t{r} * kVocab, kVocab);
    };
  }

 private:
  static constexpr int kDim = 768, kQkv = 1280, kFfn = 2048, kVocab = 32000, kLayers = 12;
  struct Layer {
    PackedMatrix qkv, out, gate_up, down;
  };

  void Norm(const float* x, int m, float* out, ThreadPool& pool) {
    k_.rms_norm({.x = x,
                 .rows = m,
                 .dim = kDim,
                 .x_stride = kDim,
                 .weight = norm_.data(),
                 .eps = 1e-5f,
                 .out = out,
                 .out_stride = kDim},
                pool);
  }
  void Multiply(const PackedMatrix& w, const float* x, int m, float* y, bool accumulate,
                ThreadPool& pool) {
    k_.matmul({.w = w,
               .x = x,
               .m = m,
               .x_stride = w.cols,
               .y = y,
               .y_stride = w.rows,
               .accumulate = accumulate},
              pool);
  }

  const Kernels& k_;
  DType dtype_;
  std::vector<Layer> layers_;
  PackedMatrix head_;
  std::vector<float> norm_;
};

void BenchForward(const Kernels& k, DType dtype, const Ceilings& ceilings, int rounds,
                  ThreadPool& pool) {
  ForwardBench bench(k, dtype, pool);
  const std::vector<int> batch = {1, 8, 32};
  std::vector<std::function<void()>> fns;
  for (int m : batch) fns.push_back(bench.Pass(m, /*context=*/128, 1, /*decode=*/true, pool));
  fns.push_back(bench.Pass(1, 0, 512, /*decode=*/false, pool));
  const std::vector<double> ns = Medians(rounds, fns);
  std::printf("\nforward pass, 125 M, %s: weights %.0f MB, read in %.1f ms at the DRAM ceiling\n",
              NameOf(dtype), bench.weight_bytes() / 1e6,
              bench.weight_bytes() / ceilings.dram_gbps / 1e6);
  for (size_t i = 0; i < batch.size(); ++i) {
    std::printf("  decode, batch %-3d %8.2f ms %8.0f tokens/s\n", batch[i], ns[i] / 1e6,
                batch[i] * 1e9 / ns[i]);
  }
  std::printf("  prefill 512      %8.2f ms %8.0f tokens/s\n", ns[3] / 1e6, 512 * 1e9 / ns[3]);
}

int Run(const Options& options) {
  const auto found = kernels::FindKernels(options.kernels);
  if (!found.ok()) {
    std::fprintf(stderr, "--kernels: %s\n", std::string(found.status().message()).c_str());
    return 2;
  }
  const Kernels& k = **found;
  DType dtype = DType::kF32;
  for (DType t : {DType::kBF16, DType::kI8, DType::kI4}) {
    if (options.dtype == NameOf(t)) dtype = t;
  }
  const int rounds = options.quick ? 5 : 25;
  std::printf("kernels %s, %d threads\n", std::string(k.name).c_str(), options.threads);
  const double f32 = MeasureF32Gflops(options.threads);
  const double bf16 = MeasureBf16Gflops(options.threads);
  const Ceilings ceilings = {.dram_gbps = MeasureDramReadGBps(options.threads),
                             .gflops = dtype != DType::kF32 && bf16 > 0 ? bf16 : f32};
  std::printf("ceilings: DRAM read %.1f GB/s, f32 %.0f GFLOP/s, bf16 %.0f GFLOP/s\n",
              ceilings.dram_gbps, f32, bf16);
  ThreadPool pool(options.threads);
  const auto wanted = [&](const char* part) {
    return options.only.empty() || options.only == part;
  };
  if (wanted("forward")) BenchForward(k, dtype, ceilings, rounds, pool);
  if (wanted("matmul")) BenchMatmul(k, dtype, ceilings, rounds, pool);
  if (wanted("weights")) BenchWeights(k, ceilings, rounds, pool);
  if (wanted("attention")) BenchAttention(k, KvDTypeFor(dtype), rounds, pool);
  if (wanted("kv")) BenchKvCodec(KvDTypeFor(dtype), rounds);
  return 0;
}

}  // namespace
}  // namespace chorale::bench

int main(int argc, char** argv) {
  chorale::bench::Options options;
  CLI::App app("Speeds of the kernels beside the machine's ceilings");
  app.add_option("--threads", options.threads, "threads of the pool")->check(CLI::Range(1, 1024));
  app.add_option("--kernels", options.kernels, "reference, cpu or a full name");
  app.add_option("--dtype", options.dtype, "of weights: f32, bf16, int8 or int4")
      ->check(CLI::IsMember({"f32", "bf16", "int8", "int4"}));
  app.add_option("--only", options.only, "forward, matmul, weights, attention or kv")
      ->check(CLI::IsMember({"forward", "matmul", "weights", "attention", "kv"}));
  app.add_flag("--quick", options.quick, "fewer rounds");
  CLI11_PARSE(app, argc, argv);
  return chorale::bench::Run(options);
}
