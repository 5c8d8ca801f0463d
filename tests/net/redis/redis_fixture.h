// A real redis-server of a test's own, in a folder of its own, which may be stopped, killed and
// started anew; and what tests ask of it directly.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <sys/types.h>

#include "cache/block_key.h"
#include "net/redis/redis.h"

namespace chorale {

// False: there is no redis-server here, and the test is to be skipped.
bool HaveRedisServer();

class RedisProcess {
 public:
  // With `ports`, it listens on a free TCP port of 127.0.0.1 too; else on its unix socket only.
  explicit RedisProcess(std::vector<std::string> options = {}, bool ports = false);
  ~RedisProcess();
  RedisProcess(const RedisProcess&) = delete;
  RedisProcess& operator=(const RedisProcess&) = delete;

  void Kill();
  void Start();  // empty, where it was before
  void Pause();
  void Resume();

  RedisUrl url() const;
  int port() const { return port_; }
  int cluster_port() const { return cluster_port_; }
  // Over a connection of its own, whatever state clients see.
  RedisReply Ask(std::vector<std::string> words) const;

 private:
  bool IsUp() const;

  const std::vector<std::string> options_;
  std::string folder_;
  int port_ = 0;
  int cluster_port_ = 0;
  pid_t pid_ = -1;
};

// Waits for what another process or thread does; false after 20 s.
bool Eventually(const std::function<bool()>& condition);

// Patient enough for a loaded machine, and quick to try again.
RedisOptions PatientOptions(const RedisUrl& url);

// The i-th of some keys and bytes that a test can tell apart.
BlockKey TestKey(int i);
std::vector<std::byte> TestBytes(int i, size_t size);

}  // namespace chorale
