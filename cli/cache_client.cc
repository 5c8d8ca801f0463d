#include "cli/cache_client.h"

#include <utility>

#include <grpcpp/client_context.h>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "chorale/v1/blocks.grpc.pb.h"
#include "cli/cluster/run_dir.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "rpc/channels.h"
#include "rpc/deadline.h"
#include "rpc/status.h"

namespace chorale::cli {
namespace {

constexpr size_t kKeyCharacters = 32;

absl::Status CheckRunning(const BlockServer& server) {
  if (server.running) return absl::OkStatus();
  return absl::UnavailableError(server.address.empty()
                                    ? "it does not listen: `chorale status` says more"
                                    : "it has ended: `chorale status` names its log");
}

// What a failed call means to who gave the command.
absl::Status Explain(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  switch (status.error_code()) {
    case grpc::StatusCode::UNIMPLEMENTED:
      return absl::InvalidArgumentError(
          "it is no worker and no store: it does not serve chorale.v1.Blocks");
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return absl::DeadlineExceededError("no answer in time");
    default:
      return FromGrpc(status);
  }
}

template <typename Request, typename Reply>
absl::StatusOr<Reply> CallBlocks(const BlockServer& server,
                                 grpc::Status (v1::Blocks::Stub::*method)(grpc::ClientContext*,
                                                                          const Request&, Reply*),
                                 const Request& request) {
  RETURN_IF_ERROR(CheckRunning(server));
  const auto stub = v1::Blocks::NewStub(OpenChannel(server.address));
  grpc::ClientContext context;
  SetDeadline(context, absl::Now() + kBlocksTimeout);
  Reply reply;
  RETURN_IF_ERROR(Explain((stub.get()->*method)(&context, request, &reply)));
  return reply;
}

}  // namespace

absl::StatusOr<std::vector<BlockServer>> FindBlockServers(
    const std::string& run_dir, const std::vector<std::string>& addresses) {
  std::vector<BlockServer> servers;
  for (const std::string& address : addresses) {
    servers.push_back({.name = address, .address = address});
  }
  if (!servers.empty()) return servers;
  const std::string resolved = ResolveRunDir(run_dir);
  ASSIGN_OR_RETURN(const ClusterRecord cluster, ReadCluster(resolved));
  for (const ProcessRecord& process : cluster.processes) {
    if (process.name == "orchestrator" || process.name == "router") continue;
    servers.push_back({.name = process.name,
                       .address = process.address,
                       .running = StateOf(cluster, process) == ProcessState::kRunning &&
                                  !process.address.empty()});
  }
  if (servers.empty()) {
    return absl::NotFoundError(absl::StrFormat(
        "the cluster in %s has no workers yet: try again when `chorale up` is done", resolved));
  }
  return servers;
}

absl::StatusOr<v1::StatBlocksReply> StatBlocks(const BlockServer& server) {
  return CallBlocks(server, &v1::Blocks::Stub::Stat, v1::StatBlocksRequest());
}

absl::StatusOr<v1::EvictBlocksReply> EvictBlocks(const BlockServer& server,
                                                 const v1::EvictBlocksRequest& request) {
  return CallBlocks(server, &v1::Blocks::Stub::Evict, request);
}

absl::StatusOr<std::vector<v1::BlockInfo>> ListBlocks(const BlockServer& server,
                                                      const v1::ListBlocksRequest& request) {
  RETURN_IF_ERROR(CheckRunning(server));
  const auto stub = v1::Blocks::NewStub(OpenChannel(server.address));
  grpc::ClientContext context;
  SetDeadline(context, absl::Now() + kBlocksTimeout);
  const auto reader = stub->List(&context, request);
  std::vector<v1::BlockInfo> blocks;
  v1::BlockList list;
  while (reader->Read(&list)) {
    for (v1::BlockInfo& block : *list.mutable_blocks()) blocks.push_back(std::move(block));
  }
  RETURN_IF_ERROR(Explain(reader->Finish()));
  return blocks;
}

absl::StatusOr<v1::VerifyProgress> VerifyBlocks(
    const BlockServer& server, const v1::VerifyBlocksRequest& request, absl::Duration time_max,
    const std::function<void(const v1::VerifyProgress&)>& on_progress) {
  RETURN_IF_ERROR(CheckRunning(server));
  const auto stub = v1::Blocks::NewStub(OpenChannel(server.address));
  grpc::ClientContext context;
  SetDeadline(context, absl::Now() + time_max);
  const InterruptWatch watch([&context] { context.TryCancel(); });
  const auto reader = stub->Verify(&context, request);
  v1::VerifyProgress progress;
  while (reader->Read(&progress)) on_progress(progress);
  const grpc::Status status = reader->Finish();
  if (watch.interrupted()) return absl::CancelledError("interrupted");
  RETURN_IF_ERROR(Explain(status));
  return progress;
}

std::vector<std::string> TierCells(const v1::TierStat& tier) {
  const auto size = [](int64_t bytes) { return bytes < 0 ? "-" : ReadableBytes(bytes); };
  return {tier.tier(), tier.blocks() < 0 ? "-" : absl::StrCat(tier.blocks()), size(tier.bytes()),
          tier.bytes_max() == 0 ? "-" : size(tier.bytes_max())};
}

absl::StatusOr<std::string> ParseKeyPrefix(const std::string& text) {
  for (const char c : text) {
    if (absl::ascii_isxdigit(static_cast<unsigned char>(c))) continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "--prefix '%s': expected the first characters of keys as `chorale cache ls` prints them, "
        "0-9 and a-f",
        text));
  }
  if (text.size() > kKeyCharacters) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--prefix '%s': %d characters, but a key has %d", text, text.size(), kKeyCharacters));
  }
  return absl::AsciiStrToLower(text);
}

}  // namespace chorale::cli
