#include "bench/transfer_sender.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/hash.h"
#include "base/random.h"
#include "bench/bare_socket.h"
#include "chorale/v1/blocks.grpc.pb.h"
#include "rpc/bidi_stream.h"
#include "rpc/kv_frame.h"
#include "rpc/raw_message.h"
#include "rpc/server.h"
#include "rpc/shared_region.h"
#include "rpc/status.h"

namespace chorale::bench {
namespace {

using PullStream = BidiStream<grpc::ByteBuffer, grpc::ByteBuffer>;

struct Pool {
  TransferSize size;
  std::shared_ptr<SharedRegion> region;  // held by slices on their way
  std::string address;
  std::vector<uint64_t> checksums;

  std::span<const std::byte> Block(int index) const {
    return std::span<const std::byte>(region->bytes())
        .subspan(static_cast<size_t>(index * size.block_bytes),
                 static_cast<size_t>(size.block_bytes));
  }
};

// One call: sends while the stream takes it, goes on when something was written.
class PullCall : public std::enable_shared_from_this<PullCall> {
 public:
  PullCall(const Pool& pool, std::shared_ptr<PullStream> stream)
      : pool_(pool),
        stream_(std::move(stream)),
        writer_([this](grpc::ByteBuffer frame, int64_t payload_bytes) {
          stream_->Push(std::move(frame), payload_bytes);
        }) {}

  void Start() {
    auto self = shared_from_this();
    stream_->OnWritten([self] { self->Pump(); });
    stream_->OnMessage([self](const grpc::ByteBuffer& bytes) { self->On(bytes); }, [] {});
  }

 private:
  void On(const grpc::ByteBuffer& bytes) {
    const auto message = ParseMessage<v1::PullMessage>(bytes);
    if (!message.ok()) {
      stream_->End(ToGrpc(message.status()));
      return;
    }
    if (message->has_pull()) {
      std::lock_guard lock(mutex_);
      next_ = 0;
      while (next_ < pool_.size.blocks() &&
             TransferKey(next_).AsBytes() != message->pull().keys(0)) {
        ++next_;
      }
      end_ = std::min(pool_.size.blocks(), next_ + message->pull().keys_size());
      shared_ = message->pull().shared_region() == pool_.address;
    }
    Pump();
  }

  void Pump() {
    std::lock_guard lock(mutex_);
    if (done_) return;
    while (next_ < end_ && stream_->bytes_pending() < kStreamBytesMax) {
      const BlockEnd end = {.key = TransferKey(next_),
                            .checksum = pool_.checksums[static_cast<size_t>(next_)]};
      if (shared_) {
        writer_.AddShared(next_, end, next_ * pool_.size.block_bytes, pool_.size.block_bytes);
      } else {
        writer_.Add(next_, end, pool_.Block(next_), pool_.region);
      }
      ++next_;
    }
    if (next_ < end_) return;
    writer_.Flush();
    stream_->End(grpc::Status::OK);
    done_ = true;
  }

  const Pool& pool_;
  const std::shared_ptr<PullStream> stream_;
  std::mutex mutex_;
  FrameWriter writer_;  // under mutex_, as all that follows
  int next_ = 0;
  int end_ = 0;
  bool shared_ = false;
  bool done_ = false;
};

class BlocksService : public v1::Blocks::WithRawCallbackMethod_Pull<v1::Blocks::Service> {
 public:
  explicit BlocksService(const Pool& pool) : pool_(pool) {}

 private:
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Pull(
      grpc::CallbackServerContext*) override {
    auto stream = PullStream::Create();
    std::make_shared<PullCall>(pool_, stream)->Start();
    return stream.get();
  }

  const Pool& pool_;
};

absl::StatusOr<Pool> Fill(const TransferSize& size) {
  auto region = SharedRegion::Create(size.bytes);
  if (!region.ok()) return region.status();
  Pool pool = {.size = size, .region = *std::move(region)};
  const std::span<std::byte> bytes = pool.region->bytes();
  for (size_t i = 0; i + sizeof(uint64_t) <= bytes.size(); i += sizeof(uint64_t)) {
    const uint64_t value = MixBits(i);
    std::memcpy(bytes.data() + i, &value, sizeof(value));
  }
  for (int i = 0; i < size.blocks(); ++i) pool.checksums.push_back(Checksum64(pool.Block(i)));
  return pool;
}

}  // namespace

BlockKey TransferKey(int index) {
  BlockKey key;
  std::memcpy(key.bytes.data(), &index, sizeof(index));
  return key;
}

int RunTransferSender(const TransferSize& size, const std::string& folder, int input, int output) {
  absl::StatusOr<Pool> pool = Fill(size);
  CHECK(pool.ok()) << pool.status();
  auto region = RegionServer::Start(*pool->region);
  CHECK(region.ok()) << region.status();
  pool->address = (*region)->address();
  BlocksService service(*pool);
  BlocksService unix_service(*pool);
  auto tcp = RpcServer::Start("127.0.0.1:0", {&service});
  CHECK(tcp.ok()) << tcp.status();
  auto unix_socket = RpcServer::Start(absl::StrCat("unix:", folder, "/rpc.sock"), {&unix_service});
  CHECK(unix_socket.ok()) << unix_socket.status();
  const BareSender bare_tcp("127.0.0.1:0", pool->region->bytes());
  const BareSender bare_unix(absl::StrCat("unix:", folder, "/bare.sock"), pool->region->bytes());
  std::array<std::string, kTransferAddresses> addresses;
  addresses[kTcp] = (*tcp)->address();
  addresses[kUnix] = (*unix_socket)->address();
  addresses[kRegion] = pool->address;
  addresses[kBareTcp] = bare_tcp.address();
  addresses[kBareUnix] = bare_unix.address();
  const std::string ready = absl::StrCat(absl::StrJoin(addresses, "\n"), "\n");
  CHECK_EQ(write(output, ready.data(), ready.size()), static_cast<ssize_t>(ready.size()));
  char ended = 0;
  while (read(input, &ended, 1) > 0) {
  }
  return 0;
}

}  // namespace chorale::bench
