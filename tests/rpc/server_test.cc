#include "rpc/server.h"

#include <string>
#include <thread>

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/health_check_service_interface.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "chorale/v1/control.grpc.pb.h"
#include "rpc/channels.h"
#include "rpc/deadline.h"
#include "rpc/server_stream.h"
#include "rpc/status.h"

namespace chorale {
namespace {

// Streams tables until it is told to stop, and remembers how it ended.
class TableService : public v1::Control::WithCallbackMethod_WatchRouting<v1::Control::Service> {
 public:
  grpc::ServerWriteReactor<v1::RoutingTable>* WatchRouting(
      grpc::CallbackServerContext* context, const v1::WatchRoutingRequest*) override {
    deadline = DeadlineOf(*context);
    stream = ServerStream<v1::RoutingTable>::Create();
    stream->OnCancelled([this] { cancelled = true; });
    for (int i = 0; i < tables; ++i) {
      v1::RoutingTable table;
      table.set_version(i);
      stream->Push(table, 1);
    }
    if (end) stream->End(*end);
    return stream.get();
  }

  int tables = 3;
  std::optional<grpc::Status> end = grpc::Status::OK;
  std::shared_ptr<ServerStream<v1::RoutingTable>> stream;
  std::atomic<bool> cancelled = false;
  absl::Time deadline;
};

class RpcServerTest : public testing::Test {
 protected:
  void Start(const std::string& address) {
    auto started = RpcServer::Start(address, {&service_});
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
    stub_ = v1::Control::NewStub(OpenChannel(server_->address()));
  }
  // A stream that has sent table 0 and goes on.
  std::unique_ptr<grpc::ClientReader<v1::RoutingTable>> OpenStream(grpc::ClientContext& context) {
    service_.tables = 1;
    service_.end = std::nullopt;
    Start("127.0.0.1:0");
    auto reader = stub_->WatchRouting(&context, {});
    v1::RoutingTable table;
    EXPECT_TRUE(reader->Read(&table));
    return reader;
  }

  TableService service_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<v1::Control::Stub> stub_;
};

TEST_F(RpcServerTest, DeliversWhatWasQueuedInOrderAndThenTheStatus) {
  service_.tables = 1000;
  service_.end = ToGrpc(absl::NotFoundError("no more"));
  Start("127.0.0.1:0");
  grpc::ClientContext context;
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  SetDeadline(context, deadline);
  auto reader = stub_->WatchRouting(&context, {});
  v1::RoutingTable table;
  int64_t next = 0;
  while (reader->Read(&table)) EXPECT_EQ(table.version(), next++);
  EXPECT_EQ(next, 1000);
  const absl::Status status = FromGrpc(reader->Finish());
  EXPECT_EQ(status, absl::NotFoundError("no more"));
  EXPECT_LT(absl::AbsDuration(service_.deadline - deadline), absl::Seconds(1));
}

TEST_F(RpcServerTest, ADrainLetsAStreamEndWithAllItHas) {
  grpc::ClientContext context;
  auto reader = OpenStream(context);
  v1::RoutingTable table;
  std::thread drain([this] { server_->Drain(absl::Now() + absl::Seconds(30)); });
  for (int i = 1; i < 1000; ++i) {
    table.set_version(i);
    service_.stream->Push(table, 1);
  }
  service_.stream->End(grpc::Status::OK);
  int64_t next = 1;
  while (reader->Read(&table)) EXPECT_EQ(table.version(), next++);
  EXPECT_EQ(next, 1000);
  EXPECT_TRUE(reader->Finish().ok());
  drain.join();
}

TEST_F(RpcServerTest, ADrainCancelsWhatRunsAtItsDeadline) {
  grpc::ClientContext context;
  auto reader = OpenStream(context);
  v1::RoutingTable table;
  service_.stream->OnCancelled(
      [stream = service_.stream] { stream->End(ToGrpc(absl::UnavailableError("shutting down"))); });
  server_->Drain(absl::Now());
  EXPECT_FALSE(reader->Read(&table));
  EXPECT_FALSE(reader->Finish().ok());
}

TEST_F(RpcServerTest, ListensOnAUnixSocket) {
  const std::string address = absl::StrCat("unix:/tmp/chorale_rpc_test_", getpid(), ".sock");
  Start(address);
  EXPECT_EQ(server_->address(), address);
  grpc::ClientContext context;
  auto reader = stub_->WatchRouting(&context, {});
  v1::RoutingTable table;
  EXPECT_TRUE(reader->Read(&table));
}

TEST_F(RpcServerTest, TellsTheProducerWhenTheCallerGoes) {
  service_.end.reset();
  Start("127.0.0.1:0");
  grpc::ClientContext context;
  auto reader = stub_->WatchRouting(&context, {});
  v1::RoutingTable table;
  ASSERT_TRUE(reader->Read(&table));
  context.TryCancel();
  while (reader->Read(&table)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  const absl::Time give_up = absl::Now() + absl::Seconds(30);
  while (!service_.cancelled && absl::Now() < give_up) std::this_thread::yield();
  EXPECT_TRUE(service_.cancelled);
  service_.stream->End(grpc::Status::OK);
}

TEST_F(RpcServerTest, RefusesAnAddressInUse) {
  Start("127.0.0.1:0");
  const absl::Status status = RpcServer::Start(server_->address(), {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("cannot listen on"), std::string::npos);
}

}  // namespace
}  // namespace chorale
