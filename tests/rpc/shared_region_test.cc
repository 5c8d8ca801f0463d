#include "rpc/blocks/shared_region.h"

#include <cstring>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

namespace chorale {
namespace {

constexpr int64_t kBytes = 3 << 20;

class SharedRegionTest : public testing::Test {
 protected:
  void SetUp() override {
    auto region = SharedRegion::Create(kBytes);
    ASSERT_TRUE(region.ok()) << region.status();
    region_ = *std::move(region);
    auto server = RegionServer::Start(*region_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  std::unique_ptr<SharedRegion> region_;
  std::unique_ptr<RegionServer> server_;
};

// A socket that is connected to, or listens at, an address of ours.
FileDescriptor SocketAt(const std::string& address, bool listens) {
  FileDescriptor fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const std::string name = address.substr(address.find(':') + 1);
  sockaddr_un where = {.sun_family = AF_UNIX};
  std::memcpy(where.sun_path + 1, name.data(), name.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  const auto* raw = reinterpret_cast<const sockaddr*>(&where);
  if (listens) {
    EXPECT_EQ(bind(fd.get(), raw, size), 0);
    EXPECT_EQ(listen(fd.get(), 1), 0);
  } else {
    EXPECT_EQ(connect(fd.get(), raw, size), 0);
  }
  return fd;
}

TEST_F(SharedRegionTest, ShowsAPeerWhatTheOwnerWrites) {
  const auto mapped = MappedRegion::Open(server_->address());
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  EXPECT_EQ((*mapped)->size(), kBytes);
  EXPECT_EQ((*mapped)->address(), server_->address());
  region_->bytes()[kBytes - 1] = std::byte{7};
  const auto last = (*mapped)->At(kBytes - 1, 1);
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(last->front(), std::byte{7});
}

TEST_F(SharedRegionTest, RefusesWhatIsNotWithinTheRegion) {
  const auto mapped = MappedRegion::Open(server_->address());
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  EXPECT_TRUE((*mapped)->At(0, kBytes).ok());
  for (const auto& [offset, bytes] :
       std::vector<std::pair<int64_t, int64_t>>{{-1, 1},
                                                {0, -1},
                                                {0, kBytes + 1},
                                                {kBytes, 1},
                                                {kBytes + 1, 0},
                                                {1, INT64_MAX},
                                                {INT64_MAX, INT64_MAX}}) {
    EXPECT_EQ((*mapped)->At(offset, bytes).status().code(), absl::StatusCode::kOutOfRange);
  }
}

TEST_F(SharedRegionTest, OutlivesItsOwnerInTheHandsOfAPeer) {
  region_->bytes()[5] = std::byte{9};
  const auto mapped = MappedRegion::Open(server_->address());
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  server_ = nullptr;
  region_ = nullptr;
  EXPECT_EQ((*mapped)->At(5, 1)->front(), std::byte{9});
}

TEST_F(SharedRegionTest, CannotChangeItsSizeNorBeWrittenByOthers) {
  EXPECT_NE(ftruncate(region_->fd(), 0), 0);
  EXPECT_NE(ftruncate(region_->fd(), 2 * kBytes), 0);
  const FileDescriptor again(
      open(absl::StrCat("/proc/self/fd/", region_->fd()).c_str(), O_RDWR | O_CLOEXEC));
  void* const mapped = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, again.get(), 0);
  EXPECT_EQ(mapped, MAP_FAILED);
}

TEST_F(SharedRegionTest, ServesOthersWhilePeersHangOrVanish) {
  std::vector<FileDescriptor> hanging;
  for (int i = 0; i < 30; ++i) {
    hanging.push_back(SocketAt(server_->address(), false));
    SocketAt(server_->address(), false);
  }
  EXPECT_TRUE(MappedRegion::Open(server_->address()).ok());
}

TEST_F(SharedRegionTest, GivesEveryServerANameOfItsOwn) {
  const auto other = RegionServer::Start(*region_);
  ASSERT_TRUE(other.ok());
  EXPECT_NE((*other)->address(), server_->address());
}

TEST_F(SharedRegionTest, IsUnavailableOnceItsServerHasStopped) {
  const std::string address = server_->address();
  server_ = nullptr;
  EXPECT_EQ(MappedRegion::Open(address).status().code(), absl::StatusCode::kUnavailable);
}

TEST(MappedRegion, RefusesWhatIsNoAddress) {
  for (const std::string& address :
       {std::string(), std::string("unix-abstract:"), std::string("127.0.0.1:80"),
        absl::StrCat("unix-abstract:", std::string(200, 'x'))}) {
    EXPECT_EQ(MappedRegion::Open(address).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

// A server that says `greeting`, with `fd` if it has one.
absl::Status OpenFrom(std::string_view greeting, int fd) {
  const std::string address = absl::StrCat("unix-abstract:chorale-test-", getpid());
  const FileDescriptor listener = SocketAt(address, true);
  std::thread server([&] {
    const FileDescriptor peer(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    iovec data = {const_cast<char*>(greeting.data()), greeting.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    if (fd >= 0) {
      message.msg_control = control;
      message.msg_controllen = sizeof(control);
      cmsghdr* const part = CMSG_FIRSTHDR(&message);
      part->cmsg_level = SOL_SOCKET;
      part->cmsg_type = SCM_RIGHTS;
      part->cmsg_len = CMSG_LEN(sizeof(int));
      std::memcpy(CMSG_DATA(part), &fd, sizeof(fd));
    }
    sendmsg(peer.get(), &message, MSG_NOSIGNAL);
  });
  absl::Status status = MappedRegion::Open(address).status();
  server.join();
  return status;
}

std::string GreetingOf(int64_t bytes) {
  std::string greeting = "choralkv";
  greeting.append(reinterpret_cast<const char*>(&bytes), sizeof(bytes));
  return greeting;
}

TEST(MappedRegion, RefusesAnUnsealedFile) {
  const FileDescriptor file(memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(file.get(), 4096), 0);
  EXPECT_EQ(OpenFrom(GreetingOf(4096), file.get()).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(MappedRegion, RefusesAnotherSizeThanWasSaid) {
  const FileDescriptor file(memfd_create("short", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(file.get(), 4096), 0);
  ASSERT_EQ(fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
  EXPECT_TRUE(OpenFrom(GreetingOf(4096), file.get()).ok());
  EXPECT_EQ(OpenFrom(GreetingOf(8192), file.get()).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(MappedRegion, RefusesServersThatSaySomethingElse) {
  const FileDescriptor file(memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(OpenFrom("hello", file.get()).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(OpenFrom(std::string(16, 'x'), file.get()).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(OpenFrom(GreetingOf(-1), file.get()).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(OpenFrom(GreetingOf(4096), -1).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(OpenFrom("", -1).code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace chorale
