#include "tests/e2e/bit_flip.h"

#include <fstream>
#include <iterator>
#include <sstream>
#include <string_view>
#include <utility>
#include <vector>

#include <grpcpp/client_context.h>
#include <sys/uio.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/random.h"
#include "chorale/v1/blocks.grpc.pb.h"
#include "rpc/channels.h"
#include "rpc/deadline.h"

namespace chorale {
namespace {

// Which byte of a block, and the byte that takes its place.
std::pair<size_t, char> Flipped(const std::string& block, uint64_t seed) {
  const size_t at = RandomBits(seed, 0, 0) % block.size();
  return {at, static_cast<char>(block[at] ^ (1 << RandomBits(seed, 0, 1) % 8))};
}

// Where `block` lies in `bytes`, if it does; CHECKs that it is there no second time.
size_t FindOnly(std::string_view bytes, const std::string& block) {
  const size_t at = bytes.find(block);
  if (at != bytes.npos) CHECK(bytes.find(block, at + 1) == bytes.npos) << "two such blocks";
  return at;
}

struct MemoryRange {
  uintptr_t begin = 0;
  size_t bytes = 0;
};

std::vector<MemoryRange> SharedMemoryOf(pid_t pid) {
  std::vector<MemoryRange> ranges;
  std::ifstream maps(absl::StrCat("/proc/", pid, "/maps"));
  for (std::string line; std::getline(maps, line);) {
    if (!absl::StrContains(line, "memfd:chorale-kv") || !absl::StrContains(line, " rw-s "))
      continue;
    std::istringstream in(line);
    uintptr_t begin = 0, end = 0;
    char dash = 0;
    in >> std::hex >> begin >> dash >> end;
    ranges.push_back({begin, end - begin});
  }
  return ranges;
}

}  // namespace

std::string CopyBlock(const std::string& address, const v1::KvFormat& format, const BlockKey& key) {
  auto stub = v1::Blocks::NewStub(OpenChannel(address));
  grpc::ClientContext context;
  SetDeadline(context, absl::Now() + absl::Seconds(60));
  auto stream = stub->Pull(&context);
  v1::PullMessage message;
  message.mutable_pull()->add_keys(std::string(key.AsBytes()));
  *message.mutable_pull()->mutable_format() = format;
  stream->Write(message);
  stream->WritesDone();
  std::string bytes;
  for (v1::KvFrame frame; stream->Read(&frame);) bytes += frame.payload();
  const grpc::Status status = stream->Finish();
  CHECK(status.ok()) << address << ": " << status.error_message();
  return bytes;
}

void FlipInMemory(pid_t pid, const std::string& block, uint64_t seed) {
  const auto [at, byte] = Flipped(block, seed);
  int found = 0;
  for (const MemoryRange& range : SharedMemoryOf(pid)) {
    std::string memory(range.bytes, '\0');
    const iovec ours = {memory.data(), memory.size()};
    const iovec theirs = {reinterpret_cast<void*>(range.begin), range.bytes};
    CHECK_EQ(process_vm_readv(pid, &ours, 1, &theirs, 1, 0), static_cast<ssize_t>(range.bytes))
        << "this test may not read the memory of its own child " << pid;
    const size_t offset = FindOnly(memory, block);
    if (offset == memory.npos) continue;
    ++found;
    char flipped = byte;
    const iovec from = {&flipped, 1};
    const iovec to = {reinterpret_cast<void*>(range.begin + offset + at), 1};
    CHECK_EQ(process_vm_writev(pid, &from, 1, &to, 1, 0), 1);
  }
  CHECK_EQ(found, 1);
}

void FlipInFile(const std::string& path, const std::string& block, uint64_t seed) {
  const auto [at, byte] = Flipped(block, seed);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  const size_t offset = FindOnly(bytes, block);
  CHECK(offset != bytes.npos) << path;
  file.clear();
  file.seekp(static_cast<std::streamoff>(offset + at));
  CHECK(file.put(byte).flush().good()) << path;
}

void FlipInRedis(const RedisProcess& redis, const std::string& key, const std::string& block,
                 uint64_t seed) {
  const auto [at, byte] = Flipped(block, seed);
  const RedisReply value = redis.Ask({"GET", key});
  CHECK(value.is_text()) << key << ": " << value.text;
  const size_t offset = FindOnly(value.text, block);
  CHECK(offset != value.text.npos) << key;
  CHECK(redis.Ask({"SETRANGE", key, absl::StrCat(offset + at), std::string(1, byte)}).ok());
}

}  // namespace chorale
