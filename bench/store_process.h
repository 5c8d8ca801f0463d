// A real chorale-kvstore, and calls to it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include "absl/time/time.h"
#include "chorale/v1/blocks.grpc.pb.h"

namespace chorale {

// Killed when the object goes.
class StoreProcess {
 public:
  // Starts `program` on a unix socket in `folder`, where its log and its disk tier go too, and
  // waits until it serves. CHECKs that it does within a minute.
  StoreProcess(const std::string& program, const std::string& folder,
               const std::vector<std::string>& flags);
  ~StoreProcess();

  // Sends the signal and waits for the end.
  void Stop(int signal);

  pid_t pid() const { return pid_; }
  absl::Duration start_time() const { return start_time_; }
  // Another connection each time.
  std::unique_ptr<v1::Blocks::Stub> Connect() const;

 private:
  pid_t pid_ = -1;
  std::string address_;
  absl::Duration start_time_;
};

// The format that the calls below store blocks in.
v1::KvFormat TestFormat();

// Pushes whole blocks, by number (bench/sample_blocks.h). The reply, or none when the call failed.
std::optional<v1::PushReply> PushBlocks(v1::Blocks::Stub& stub,
                                        const std::vector<uint64_t>& numbers,
                                        int64_t (*bytes_of)(uint64_t));

// How many leading blocks came, in how many bytes; CHECKs that those that came are right when
// `verify` says so, else only their length.
struct Pulled {
  int blocks = 0;
  int64_t bytes = 0;
  grpc::Status status;
};
Pulled PullBlocks(v1::Blocks::Stub& stub, const std::vector<uint64_t>& numbers,
                  int64_t (*bytes_of)(uint64_t), bool verify);

}  // namespace chorale
