// DiskFile: the files of a disk tier, and nothing about what to keep in them.
//
//   DIR/lock     held by the one process that uses the folder
//   DIR/data     slots, preallocated; read and written past the page cache where that is possible
//   DIR/table    a superblock of 4096 bytes, then an entry of 64 bytes per block, by its number
//
// An entry is written after its data and cleared before its slot is written again. So when the
// process is killed at any moment, no entry names bytes of another block; after a power failure one
// may, and readers verify checksums anyway. Restarting reads the table, not the data.
//
// Reads and writes of different slots and entries may run at once on any threads.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cache/block_table.h"

namespace chorale {

struct DiskFileOptions {
  std::string dir;  // made when it is not there
  SlabOptions slabs;
};

class DiskFile {
 public:
  // Of memory and lengths that go to Read and Write.
  static constexpr int64_t kAlign = 4096;

  struct Entry {
    uint32_t number = 0;
    BlockKey key;
    BlockMeta meta;
    int64_t offset = 0;
    uint64_t sequence = 0;  // of its writing; they only grow
  };
  struct Entries {
    std::vector<Entry> sound;  // by sequence
    std::vector<uint32_t> torn;
  };

  // InvalidArgument: the folder cannot be used so; says what to write instead.
  static absl::StatusOr<std::unique_ptr<DiskFile>> Open(const DiskFileOptions& options);
  ~DiskFile();
  DiskFile(const DiskFile&) = delete;
  DiskFile& operator=(const DiskFile&) = delete;

  absl::StatusOr<Entries> ReadEntries() const;
  absl::Status WriteEntry(const Entry& entry);
  absl::Status ClearEntry(uint32_t number);

  // `bytes` is aligned memory of an aligned length. Unavailable names the file, the place and what
  // the system said.
  absl::Status Read(int64_t offset, std::span<std::byte> bytes) const;
  absl::Status Write(int64_t offset, std::span<const std::byte> bytes);
  // Everything written so far survives a power failure.
  absl::Status Sync();

  // Whether the page cache is passed by.
  bool direct() const { return direct_; }
  static int64_t RoundUp(int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

 private:
  struct Superblock;

  DiskFile() = default;
  static Superblock SuperblockOf(const SlabOptions& slabs);
  absl::Status Lock(const std::string& dir);
  // Whether it is a new one, still without a superblock.
  absl::StatusOr<bool> OpenTable(const std::string& dir, const Superblock& ours);
  absl::Status OpenData(const DiskFileOptions& options);

  std::string table_path_;
  std::string data_path_;
  int lock_fd_ = -1;
  int table_fd_ = -1;
  int data_fd_ = -1;
  bool direct_ = false;
};

// Memory for one Read or Write.
class AlignedBytes {
 public:
  explicit AlignedBytes(int64_t bytes);
  std::span<std::byte> span() const { return {bytes_.get(), static_cast<size_t>(size_)}; }

 private:
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  int64_t size_;
  std::unique_ptr<std::byte, Free> bytes_;
};

}  // namespace chorale
