#include "cli/cluster/processes.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>

#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"

namespace chorale::cli {
namespace {

constexpr absl::Duration kPollInterval = absl::Milliseconds(20);
constexpr int64_t kLogTailBytes = 64 << 10;

// A file descriptor that is closed with its scope.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { Close(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }

 private:
  int fd_;
};

struct StatFields {
  char state = '?';
  int64_t start_ticks = 0;
};

// Fields 3 and 22 of /proc/PID/stat (proc(5)). The second field, the name, may hold anything, so
// fields are counted from its closing parenthesis.
absl::StatusOr<StatFields> ReadStat(int64_t pid) {
  std::ifstream in(absl::StrFormat("/proc/%d/stat", pid));
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) {
    return absl::NotFoundError(absl::StrFormat("no process has the pid %d", pid));
  }
  const std::vector<std::string> fields =
      absl::StrSplit(text.substr(name_end + 1), ' ', absl::SkipEmpty());
  StatFields stat;
  if (fields.size() < 20 || !absl::SimpleAtoi(fields[19], &stat.start_ticks)) {
    return absl::InternalError(absl::StrFormat("/proc/%d/stat is not understood", pid));
  }
  stat.state = fields[0][0];
  return stat;
}

absl::Status Errno(const std::string& what) {
  return absl::UnavailableError(absl::StrFormat("%s: %s", what, strerror(errno)));
}

// The child's side of Spawn: waits for the word to go, then becomes the program. Only what is safe
// between fork and exec; a failed exec tells its errno through `failure_fd`.
[[noreturn]] void BecomeProgram(char* const* argv, int log_fd, int null_fd, int go_fd,
                                int failure_fd) {
  char go = 0;
  if (read(go_fd, &go, 1) != 1) _exit(127);
  setsid();
  dup2(null_fd, STDIN_FILENO);
  dup2(log_fd, STDOUT_FILENO);
  dup2(log_fd, STDERR_FILENO);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execv(argv[0], argv);
  const int error = errno;
  [[maybe_unused]] const ssize_t told = write(failure_fd, &error, sizeof(error));
  _exit(127);
}

}  // namespace

absl::StatusOr<ProcessIdentity> IdentityOf(int64_t pid) {
  ASSIGN_OR_RETURN(const StatFields stat, ReadStat(pid));
  return ProcessIdentity{.pid = pid, .start_ticks = stat.start_ticks};
}

ProcessState StateOf(const ProcessIdentity& process) {
  const absl::StatusOr<StatFields> stat = ReadStat(process.pid);
  if (!stat.ok()) return ProcessState::kEnded;
  if (stat->start_ticks != process.start_ticks) return ProcessState::kStranger;
  return stat->state == 'Z' || stat->state == 'X' ? ProcessState::kEnded : ProcessState::kRunning;
}

std::string BootId() {
  std::ifstream in("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(in, id);
  return id;
}

bool Signal(const ProcessIdentity& process, int signal) {
  const Descriptor pidfd(static_cast<int>(syscall(SYS_pidfd_open, process.pid, 0)));
  if (StateOf(process) != ProcessState::kRunning) return false;
  if (pidfd.get() < 0) {  // a kernel without pidfd: the moment between look and signal is unguarded
    return errno == ENOSYS && kill(static_cast<pid_t>(process.pid), signal) == 0;
  }
  return syscall(SYS_pidfd_send_signal, pidfd.get(), signal, nullptr, 0) == 0;
}

bool WaitEnded(const ProcessIdentity& process, absl::Time deadline) {
  while (StateOf(process) == ProcessState::kRunning) {
    if (absl::Now() >= deadline) return false;
    absl::SleepFor(kPollInterval);
  }
  return true;
}

absl::StatusOr<ProcessIdentity> Spawn(
    const std::vector<std::string>& command, const std::string& log_path,
    const std::function<absl::Status(const ProcessIdentity&)>& record) {
  const Descriptor log(open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (log.get() < 0) return Errno(log_path);
  const Descriptor null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (null.get() < 0) return Errno("/dev/null");
  int go[2], failure[2];
  if (pipe2(go, O_CLOEXEC) != 0) return Errno("pipe");
  Descriptor go_read(go[0]), go_write(go[1]);
  if (pipe2(failure, O_CLOEXEC) != 0) return Errno("pipe");
  Descriptor failure_read(failure[0]), failure_write(failure[1]);

  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = fork();
  if (pid < 0) return Errno("fork");
  if (pid == 0) {
    close(go[1]);  // or the child would never see its parent's end
    BecomeProgram(argv.data(), log.get(), null.get(), go[0], failure[1]);
  }
  failure_write.Close();
  absl::StatusOr<ProcessIdentity> process = IdentityOf(pid);
  absl::Status recorded = process.ok() ? record(*process) : process.status();
  if (!recorded.ok()) {
    go_write.Close();
    waitpid(pid, nullptr, 0);
    return recorded;
  }
  [[maybe_unused]] const ssize_t told = write(go_write.get(), "g", 1);
  int error = 0;
  if (read(failure_read.get(), &error, sizeof(error)) == sizeof(error)) {
    waitpid(pid, nullptr, 0);
    return absl::NotFoundError(
        absl::StrFormat("%s cannot be run: %s", command[0], strerror(error)));
  }
  return process;
}

std::string HowEnded(int64_t pid) {
  int status = 0;
  if (waitpid(static_cast<pid_t>(pid), &status, WNOHANG) != pid) return "";
  if (WIFEXITED(status)) return absl::StrFormat("exit code %d", WEXITSTATUS(status));
  return absl::StrFormat("signal %d", WTERMSIG(status));
}

std::string LastLines(const std::string& path, int lines_max) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) return "";
  const int64_t size = in.tellg();
  in.seekg(size > kLogTailBytes ? size - kLogTailBytes : 0);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  std::vector<std::string> lines = absl::StrSplit(absl::StripTrailingAsciiWhitespace(text), '\n');
  if (static_cast<int>(lines.size()) > lines_max)
    lines.erase(lines.begin(), lines.end() - lines_max);
  return absl::StrJoin(lines, "\n");
}

}  // namespace chorale::cli
