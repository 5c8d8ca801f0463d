// chorale-kvstore is killed at random moments, 50 times. What it serves after each restart is
// right: the content of every block is a function of its key.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <random>
#include <thread>

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>

#include "bench/fixtures/sample_blocks.h"
#include "bench/fixtures/store_process.h"

namespace chorale {
namespace {

constexpr int kKills = 50;
// More than fits on disk, so that slots are used again and again.
constexpr uint64_t kNumbers = 8'000;
constexpr int kPulledMax = 150;  // after each restart; all of them are verified inside the store

int64_t SizeOf(uint64_t number) { return 4'000 + static_cast<int64_t>(number % 7) * 9'000; }

std::vector<uint64_t> ListDisk(v1::Blocks::Stub& stub) {
  grpc::ClientContext context;
  v1::ListBlocksRequest request;
  request.set_tier("disk");
  request.set_limit(1 << 20);
  const auto stream = stub.List(&context, request);
  std::vector<uint64_t> numbers;
  for (v1::BlockList list; stream->Read(&list);) {
    for (const v1::BlockInfo& block : list.blocks()) {
      const uint64_t number = NumberOf(*BlockKey::FromBytes(block.key()));
      EXPECT_EQ(block.key(), KeyOf(number).AsBytes());
      EXPECT_EQ(block.bytes(), SizeOf(number));
      numbers.push_back(number);
    }
  }
  EXPECT_TRUE(stream->Finish().ok());
  return numbers;
}

v1::VerifyProgress VerifyDisk(v1::Blocks::Stub& stub) {
  grpc::ClientContext context;
  v1::VerifyBlocksRequest request;
  request.set_tier("disk");
  const auto stream = stub.Verify(&context, request);
  v1::VerifyProgress progress;
  while (stream->Read(&progress)) {
  }
  EXPECT_TRUE(stream->Finish().ok());
  return progress;
}

TEST(KvstoreCrash, ServesOnlyWhatMatchesItsKeyAfterFiftyKills) {
  const uint64_t seed = std::random_device{}();
  printf("seed %llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  const std::string folder = MakeTempDir();
  absl::Duration start_max;
  size_t restored = 0;
  int64_t pulled = 0;
  for (int kill = 0; kill <= kKills; ++kill) {
    StoreProcess process(
        CHORALE_BINARY_FOLDER "/chorale-kvstore", folder,
        {"--dram-mib", "32", "--disk-mib", "64", "--slab-mib", "1", "--log-level", "warning"});
    start_max = std::max(start_max, process.start_time());
    ASSERT_LT(process.start_time(), absl::Seconds(5)) << "start " << kill;
    const auto stub = process.Connect();

    std::vector<uint64_t> numbers = ListDisk(*stub);
    restored = numbers.size();
    // The page cache outlives the process, so that nothing on disk may be bad.
    const v1::VerifyProgress verified = VerifyDisk(*stub);
    ASSERT_EQ(verified.blocks_bad(), 0) << "after kill " << kill << ", seed " << seed;
    ASSERT_EQ(verified.blocks_done(), static_cast<int64_t>(restored));
    std::shuffle(numbers.begin(), numbers.end(), random);
    if (kill < kKills && numbers.size() > kPulledMax) numbers.resize(kPulledMax);
    if (!numbers.empty()) {
      const Pulled chain = PullBlocks(*stub, numbers, SizeOf, true);
      ASSERT_TRUE(chain.status.ok()) << chain.status.error_message();
      ASSERT_EQ(chain.blocks, static_cast<int>(numbers.size()));
      pulled += chain.blocks;
    }
    if (kill == kKills) break;

    std::atomic<bool> stop = false;
    std::vector<std::thread> writers;
    for (int w = 0; w < 2; ++w) {
      writers.emplace_back([&, stub = process.Connect(), state = random()]() mutable {
        while (!stop) {
          std::vector<uint64_t> batch;
          for (int i = 0; i < 16; ++i) batch.push_back((state = MixBits(state)) % kNumbers);
          PushBlocks(*stub, batch, SizeOf);  // fails when the store goes
        }
      });
    }
    poll(nullptr, 0, static_cast<int>(20 + random() % 180));  // the random moment
    process.Stop(SIGKILL);
    stop = true;
    for (std::thread& writer : writers) writer.join();
  }
  printf("%d kills: %zu blocks on disk at the end, %lld pulled and right, longest start %.0f ms\n",
         kKills, restored, static_cast<long long>(pulled), absl::ToDoubleMilliseconds(start_max));
  EXPECT_GT(restored, 500u);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace chorale
