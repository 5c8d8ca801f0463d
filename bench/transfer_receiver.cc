#include "bench/transfer_receiver.h"

#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include <sys/mman.h>

#include "absl/time/clock.h"
#include "base/check.h"
#include "base/checked_copy.h"
#include "base/hash.h"
#include "bench/bare_socket.h"
#include "rpc/kv_pull.h"
#include "rpc/raw_message.h"

namespace chorale::bench {
namespace {

double SecondsSince(absl::Time start) { return absl::ToDoubleSeconds(absl::Now() - start); }

// How many streams still run.
class Pending {
 public:
  explicit Pending(int count) : count_(count) {}
  void Done() {
    std::lock_guard lock(mutex_);
    if (--count_ == 0) none_.notify_all();
  }
  void Wait() {
    std::unique_lock lock(mutex_);
    none_.wait(lock, [this] { return count_ == 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable none_;
  int count_;  // under mutex_
};

}  // namespace

// Takes the blocks of one call into the pool, in order.
class TransferReceiver::Stream {
 public:
  Stream(std::span<std::byte> pool, const TransferSize& size, const MappedRegion* region,
         bool verify)
      : pool_(pool), size_(size), region_(region), verify_(verify) {}

  // Blocks `first` to `last` - 1.
  void Start(std::shared_ptr<grpc::Channel> channel, int first, int last, Pending& pending) {
    v1::PullMessage message;
    for (int i = first; i < last; ++i) {
      message.mutable_pull()->add_keys(std::string(TransferKey(i).AsBytes()));
    }
    if (region_ != nullptr) message.mutable_pull()->set_shared_region(region_->address());
    pull_ = KvPull::Create({.channel = std::move(channel),
                            .method = "/chorale.v1.Blocks/Pull",
                            .request = SerializeMessage(message),
                            .on_frame = [this](auto frame) { Take(*frame); },
                            .on_done =
                                [&pending](const absl::Status& status) {
                                  CHECK(status.ok()) << status;
                                  pending.Done();
                                }});
    pull_->Begin();
  }
  int blocks_taken() const { return blocks_taken_; }

 private:
  void Take(const DecodedKvFrame& frame) {
    PieceCursor cursor(frame);
    for (PieceCursor::Run run; cursor.Next(run);) {
      CHECK_LT(run.index, size_.blocks());
      std::span<const std::byte> bytes = run.bytes;
      if (run.shared_offset.has_value()) {
        CHECK(region_ != nullptr);
        bytes = *region_->At(*run.shared_offset, run.shared_bytes);
      }
      CHECK_LE(block_done_ + static_cast<int64_t>(bytes.size()), size_.block_bytes);
      std::byte* const to = pool_.data() + run.index * size_.block_bytes + block_done_;
      block_done_ += static_cast<int64_t>(bytes.size());
      if (verify_) {
        copy_.Append(to, bytes);
      } else {
        std::memcpy(to, bytes.data(), bytes.size());
      }
      if (run.end.has_value()) End(run);
    }
    if (region_ != nullptr) pull_->Acknowledge(blocks_taken_);
  }

  void End(const PieceCursor::Run& run) {
    CHECK_EQ(block_done_, size_.block_bytes);
    CHECK(run.end->key == TransferKey(run.index));
    if (verify_) CHECK_EQ(copy_.Finish(), run.end->checksum);
    block_done_ = 0;
    ++blocks_taken_;
  }

  const std::span<std::byte> pool_;
  const TransferSize size_;
  const MappedRegion* const region_;
  const bool verify_;
  std::shared_ptr<KvPull> pull_;
  CheckedCopy copy_;
  int64_t block_done_ = 0;
  int blocks_taken_ = 0;
};

HugeMemory::HugeMemory(int64_t bytes) {
  constexpr int64_t kHugePageBytes = 2 << 20;
  const int64_t rounded = (bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  void* const memory = std::aligned_alloc(kHugePageBytes, static_cast<size_t>(rounded));
  CHECK(memory != nullptr);
  madvise(memory, static_cast<size_t>(rounded), MADV_HUGEPAGE);
  std::memset(memory, 1, static_cast<size_t>(rounded));
  bytes_ = {static_cast<std::byte*>(memory), static_cast<size_t>(bytes)};
}

HugeMemory::~HugeMemory() { std::free(bytes_.data()); }

TransferReceiver::TransferReceiver(const TransferSize& size, std::span<std::byte> pool,
                                   std::span<const std::byte> source)
    : size_(size), pool_(pool), source_(source) {
  const auto block_bytes = static_cast<size_t>(size.block_bytes);
  for (size_t at = 0; at + block_bytes <= source.size(); at += block_bytes) {
    checksums_.push_back(Checksum64(source.subspan(at, block_bytes)));
  }
}

std::span<std::byte> TransferReceiver::Place(int index) const {
  return pool_.subspan(static_cast<size_t>(index * size_.block_bytes),
                       static_cast<size_t>(size_.block_bytes));
}

double TransferReceiver::PullSeconds(const TransferWay& way, bool verify) {
  if (!way.grpc) return BareSeconds(way, verify);
  std::vector<std::unique_ptr<Stream>> streams;
  Pending pending(way.streams);
  const absl::Time start = absl::Now();
  for (int i = 0; i < way.streams; ++i) {
    streams.push_back(std::make_unique<Stream>(pool_, size_, way.region, verify));
    streams.back()->Start(channels_.Get(way.address, i), size_.blocks() * i / way.streams,
                          size_.blocks() * (i + 1) / way.streams, pending);
  }
  pending.Wait();
  const double seconds = SecondsSince(start);
  int blocks = 0;
  for (const auto& stream : streams) blocks += stream->blocks_taken();
  CHECK_EQ(blocks, size_.blocks());
  return seconds;
}

double TransferReceiver::BareSeconds(const TransferWay& way, bool verify) {
  std::vector<std::thread> threads;
  const absl::Time start = absl::Now();
  for (int i = 0; i < way.streams; ++i) {
    threads.emplace_back([this, &way, verify, first = size_.blocks() * i / way.streams,
                          last = size_.blocks() * (i + 1) / way.streams] {
      BareReceiver receiver(way.address, first * size_.block_bytes,
                            (last - first) * size_.block_bytes);
      for (int block = first; block < last; ++block) {
        receiver.Read(Place(block));
        if (verify) CHECK_EQ(Checksum64(Place(block)), checksums_[static_cast<size_t>(block)]);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return SecondsSince(start);
}

double TransferReceiver::CopySeconds(bool verify) {
  CheckedCopy copy;
  const absl::Time start = absl::Now();
  for (int block = 0; block < size_.blocks(); ++block) {
    const std::span<std::byte> to = Place(block);
    const auto from = source_.subspan(static_cast<size_t>(block * size_.block_bytes), to.size());
    if (verify) {
      copy.Append(to.data(), from);
      CHECK_EQ(copy.Finish(), checksums_[static_cast<size_t>(block)]);
    } else {
      std::memcpy(to.data(), from.data(), to.size());
    }
  }
  return SecondsSince(start);
}

double TransferReceiver::MemcpySeconds() {
  const absl::Time start = absl::Now();
  std::memcpy(pool_.data(), source_.data(), source_.size());
  return SecondsSince(start);
}

}  // namespace chorale::bench
