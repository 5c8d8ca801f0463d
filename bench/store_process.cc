#include "bench/store_process.h"

#include <filesystem>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/hash.h"
#include "bench/sample_blocks.h"
#include "rpc/channels.h"
#include "rpc/limits.h"

extern char** environ;

namespace chorale {

StoreProcess::StoreProcess(const std::string& program, const std::string& folder,
                           const std::vector<std::string>& flags) {
  const std::string address_file = folder + "/address";
  std::filesystem::remove(address_file);
  address_ = absl::StrCat("unix:", folder, "/socket");
  std::vector<std::string> words = {program,      "--listen", address_,        "--address-file",
                                    address_file, "--dir",    folder + "/disk"};
  words.insert(words.end(), flags.begin(), flags.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, (folder + "/log").c_str(),
                                   O_WRONLY | O_CREAT | O_APPEND, 0600);
  const absl::Time begin = absl::Now();
  CHECK_EQ(posix_spawn(&pid_, program.c_str(), &actions, nullptr, argv.data(), environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  while (!std::filesystem::exists(address_file)) {
    CHECK(waitpid(pid_, nullptr, WNOHANG) == 0) << program << " ended, see " << folder << "/log";
    CHECK(absl::Now() - begin < absl::Minutes(1)) << program << " does not start";
    poll(nullptr, 0, 2);
  }
  start_time_ = absl::Now() - begin;
}

StoreProcess::~StoreProcess() { Stop(SIGKILL); }

void StoreProcess::Stop(int signal) {
  if (pid_ < 0) return;
  kill(pid_, signal);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

std::unique_ptr<v1::Blocks::Stub> StoreProcess::Connect() const {
  return v1::Blocks::NewStub(OpenChannel(address_));
}

v1::KvFormat TestFormat() {
  v1::KvFormat format;
  format.set_layout(1);
  format.set_block_tokens(16);
  format.set_dtype("f32");
  return format;
}

std::optional<v1::PushReply> PushBlocks(v1::Blocks::Stub& stub,
                                        const std::vector<uint64_t>& numbers,
                                        int64_t (*bytes_of)(uint64_t)) {
  grpc::ClientContext context;
  v1::PushReply reply;
  const auto writer = stub.Push(&context, &reply);
  v1::KvFrame frame;
  *frame.mutable_format() = TestFormat();
  for (const uint64_t number : numbers) {
    const std::vector<std::byte> bytes = BytesOf(number, bytes_of(number));
    v1::KvPiece& piece = *frame.add_pieces();
    piece.set_index(static_cast<int>(number % 1000));
    piece.set_bytes(static_cast<int64_t>(bytes.size()));
    piece.set_key(std::string(KeyOf(number).AsBytes()));
    piece.set_checksum(Checksum64(bytes));
    frame.mutable_payload()->assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (!writer->Write(frame)) break;
    frame.Clear();
  }
  writer->WritesDone();
  if (!writer->Finish().ok()) return std::nullopt;
  return reply;
}

Pulled PullBlocks(v1::Blocks::Stub& stub, const std::vector<uint64_t>& numbers,
                  int64_t (*bytes_of)(uint64_t), bool verify) {
  grpc::ClientContext context;
  const auto stream = stub.Pull(&context);
  v1::PullMessage message;
  for (const uint64_t number : numbers) {
    message.mutable_pull()->add_keys(std::string(KeyOf(number).AsBytes()));
  }
  *message.mutable_pull()->mutable_format() = TestFormat();
  stream->Write(message);
  stream->WritesDone();
  Pulled pulled;
  std::string block;
  v1::KvFrame frame;
  while (stream->Read(&frame)) {
    size_t begin = 0;
    for (const v1::KvPiece& piece : frame.pieces()) {
      if (verify) block.append(frame.payload(), begin, static_cast<size_t>(piece.bytes()));
      begin += static_cast<size_t>(piece.bytes());
      pulled.bytes += piece.bytes();
      if (piece.key().empty()) continue;
      const uint64_t number = numbers.at(static_cast<size_t>(pulled.blocks++));
      CHECK(piece.key() == KeyOf(number).AsBytes());
      if (!verify) continue;
      CHECK_EQ(static_cast<int64_t>(block.size()), bytes_of(number));
      CHECK(IsBlock(number, std::as_bytes(std::span(block)))) << "block " << number;
      block.clear();
    }
  }
  pulled.status = stream->Finish();
  return pulled;
}

}  // namespace chorale
