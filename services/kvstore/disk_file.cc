#include "services/kvstore/disk_file.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/hash.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

static_assert(std::endian::native == std::endian::little, "records are written as they lie");

constexpr int64_t kSuperblockBytes = 4096;
constexpr uint32_t kVersion = 1;
constexpr char kMagic[8] = {'c', 'h', 'o', 'r', 'a', 'l', 'e', 'K'};

}  // namespace

struct DiskFile::Superblock {
  char magic[8] = {};
  uint32_t version = 0;
  uint32_t zero = 0;
  int64_t bytes_max = 0;
  int64_t slab_bytes = 0;
  int64_t slot_align = 0;
  uint64_t checksum = 0;  // of what is before it
};

namespace {

struct Record {
  uint8_t key[16] = {};
  uint64_t checksum = 0;
  int64_t offset = 0;
  uint64_t sequence = 0;  // from 1; 0 in a cleared entry
  uint32_t bytes = 0;
  int32_t index = 0;
  uint32_t format = 0;
  uint32_t zero = 0;
  uint64_t own_checksum = 0;  // of what is before it
};
static_assert(sizeof(Record) == 64);

template <typename T>
uint64_t ChecksumOf(const T& record) {
  return Checksum64(std::as_bytes(std::span(&record, 1)).first(sizeof(T) - sizeof(uint64_t)));
}

absl::Status SystemError(const std::string& what, const std::string& path) {
  return absl::UnavailableError(
      absl::StrFormat("%s %s: %s", what, path, std::generic_category().message(errno)));
}

absl::Status ReadAll(int fd, const std::string& path, int64_t offset, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = pread(fd, bytes.data(), bytes.size(), offset);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return SystemError(absl::StrFormat("reading at %d from", offset), path);
    if (done == 0) {
      return absl::UnavailableError(absl::StrFormat(
          "reading at %d from %s: the file ends %d bytes too early", offset, path, bytes.size()));
    }
    offset += done;
    bytes = bytes.subspan(static_cast<size_t>(done));
  }
  return absl::OkStatus();
}

absl::Status WriteAll(int fd, const std::string& path, int64_t offset,
                      std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = pwrite(fd, bytes.data(), bytes.size(), offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return SystemError(absl::StrFormat("writing at %d to", offset), path);
    offset += done;
    bytes = bytes.subspan(static_cast<size_t>(done));
  }
  return absl::OkStatus();
}

int OpenFile(const std::string& path, int flags) {
  return open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | flags, 0600);
}

}  // namespace

DiskFile::Superblock DiskFile::SuperblockOf(const SlabOptions& slabs) {
  Superblock superblock = {.version = kVersion,
                           .bytes_max = slabs.bytes_max,
                           .slab_bytes = slabs.slab_bytes,
                           .slot_align = slabs.slot_align};
  static_assert(sizeof(superblock) == 48);
  std::copy_n(kMagic, sizeof(kMagic), superblock.magic);
  superblock.checksum = ChecksumOf(superblock);
  return superblock;
}

AlignedBytes::AlignedBytes(int64_t bytes)
    : size_(bytes),
      bytes_(static_cast<std::byte*>(
          std::aligned_alloc(DiskFile::kAlign, static_cast<size_t>(DiskFile::RoundUp(bytes))))) {
  CHECK(bytes_ != nullptr) << "no memory for " << bytes << " bytes";
}

absl::StatusOr<std::unique_ptr<DiskFile>> DiskFile::Open(const DiskFileOptions& options) {
  CHECK(options.slabs.slot_align % kAlign == 0);
  if (options.slabs.bytes_max < options.slabs.slab_bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the disk tier has %d bytes, expected %d at least, the largest block",
                        options.slabs.bytes_max, options.slabs.slab_bytes));
  }
  std::error_code error;
  std::filesystem::create_directories(options.dir, error);
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--dir %s: cannot be made: %s", options.dir, error.message()));
  }
  auto file = std::unique_ptr<DiskFile>(new DiskFile);
  file->table_path_ = options.dir + "/table";
  file->data_path_ = options.dir + "/data";
  RETURN_IF_ERROR(file->Lock(options.dir));
  const Superblock superblock = SuperblockOf(options.slabs);
  ASSIGN_OR_RETURN(const bool is_new, file->OpenTable(options.dir, superblock));
  RETURN_IF_ERROR(file->OpenData(options));
  if (is_new) {
    if (ftruncate(file->table_fd_, 0) != 0 || ftruncate(file->table_fd_, kSuperblockBytes) != 0) {
      return SystemError("resizing", file->table_path_);
    }
    RETURN_IF_ERROR(
        WriteAll(file->table_fd_, file->table_path_, 0, std::as_bytes(std::span(&superblock, 1))));
  }
  return file;
}

DiskFile::~DiskFile() {
  for (const int fd : {data_fd_, table_fd_, lock_fd_}) {
    if (fd >= 0) close(fd);
  }
}

absl::Status DiskFile::Lock(const std::string& dir) {
  const std::string path = dir + "/lock";
  lock_fd_ = OpenFile(path, 0);
  if (lock_fd_ < 0) {
    return absl::InvalidArgumentError(absl::StrFormat("--dir %s: cannot be written to: %s", dir,
                                                      std::generic_category().message(errno)));
  }
  if (flock(lock_fd_, LOCK_EX | LOCK_NB) != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--dir %s: another store uses this folder; stop it, or give each a folder of its own",
        dir));
  }
  return absl::OkStatus();
}

absl::Status DiskFile::OpenData(const DiskFileOptions& options) {
  data_fd_ = OpenFile(data_path_, O_DIRECT);
  direct_ = data_fd_ >= 0;
  if (data_fd_ < 0 && errno == EINVAL) data_fd_ = OpenFile(data_path_, 0);
  if (data_fd_ < 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--dir %s: %s", options.dir, SystemError("opening", data_path_).message()));
  }
  if (const int error = posix_fallocate(data_fd_, 0, options.slabs.bytes_max); error != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--disk-mib %d: %s has no room for it (%s); free some, or write less",
        options.slabs.bytes_max >> 20, options.dir, std::generic_category().message(error)));
  }
  // Some file systems take the flag but not the reads.
  AlignedBytes probe(kAlign);
  if (direct_ && pread(data_fd_, probe.span().data(), kAlign, 0) != kAlign) {
    close(data_fd_);
    direct_ = false;
    data_fd_ = OpenFile(data_path_, 0);
    if (data_fd_ < 0) return SystemError("opening", data_path_);
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> DiskFile::OpenTable(const std::string& dir, const Superblock& ours) {
  table_fd_ = OpenFile(table_path_, 0);
  struct stat stat {};
  if (table_fd_ < 0 || fstat(table_fd_, &stat) != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--dir %s: %s", dir, SystemError("opening", table_path_).message()));
  }
  // New, or killed before anything was stored.
  if (stat.st_size < kSuperblockBytes) return true;
  Superblock theirs;
  RETURN_IF_ERROR(
      ReadAll(table_fd_, table_path_, 0, std::as_writable_bytes(std::span(&theirs, 1))));
  const Superblock empty;
  if (std::memcmp(&theirs, &empty, sizeof(empty)) == 0) return true;
  if (std::memcmp(theirs.magic, kMagic, sizeof(kMagic)) != 0 ||
      theirs.checksum != ChecksumOf(theirs)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--dir %s: %s is damaged, or no table of a block store; empty the folder, or give another",
        dir, table_path_));
  }
  if (theirs.version != ours.version) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--dir %s: its files have version %d, this program writes version %d; "
                        "empty the folder, or give another",
                        dir, theirs.version, ours.version));
  }
  if (std::memcmp(&theirs, &ours, sizeof(ours)) != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--dir %s: its files were made for %d bytes in slabs of %d with slots at %d, and %d, %d, "
        "%d were asked for; write --disk-mib %d --slab-mib %d, or empty the folder",
        dir, theirs.bytes_max, theirs.slab_bytes, theirs.slot_align, ours.bytes_max,
        ours.slab_bytes, ours.slot_align, theirs.bytes_max >> 20, theirs.slab_bytes >> 20));
  }
  return false;
}

absl::StatusOr<DiskFile::Entries> DiskFile::ReadEntries() const {
  struct stat stat {};
  if (fstat(table_fd_, &stat) != 0) return SystemError("reading the size of", table_path_);
  // A last record that is cut off was never whole.
  const int64_t count =
      std::max<int64_t>(0, stat.st_size - kSuperblockBytes) / static_cast<int64_t>(sizeof(Record));
  Entries entries;
  constexpr int64_t kChunk = 16'384;
  std::vector<Record> records;
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    records.resize(static_cast<size_t>(std::min(kChunk, count - begin)));
    RETURN_IF_ERROR(ReadAll(table_fd_, table_path_,
                            kSuperblockBytes + begin * static_cast<int64_t>(sizeof(Record)),
                            std::as_writable_bytes(std::span(records))));
    for (size_t i = 0; i < records.size(); ++i) {
      const Record& record = records[i];
      const uint32_t number = static_cast<uint32_t>(begin) + static_cast<uint32_t>(i);
      const Record cleared;
      if (std::memcmp(&record, &cleared, sizeof(record)) == 0) continue;
      if (record.own_checksum != ChecksumOf(record)) {
        entries.torn.push_back(number);
        continue;
      }
      Entry entry = {.number = number,
                     .meta = {.bytes = record.bytes,
                              .checksum = record.checksum,
                              .format = record.format,
                              .index = record.index},
                     .offset = record.offset,
                     .sequence = record.sequence};
      std::copy(std::begin(record.key), std::end(record.key), entry.key.bytes.begin());
      entries.sound.push_back(entry);
    }
  }
  std::sort(entries.sound.begin(), entries.sound.end(),
            [](const Entry& a, const Entry& b) { return a.sequence < b.sequence; });
  return entries;
}

absl::Status DiskFile::WriteEntry(const Entry& entry) {
  Record record = {.checksum = entry.meta.checksum,
                   .offset = entry.offset,
                   .sequence = entry.sequence,
                   .bytes = static_cast<uint32_t>(entry.meta.bytes),
                   .index = entry.meta.index,
                   .format = entry.meta.format};
  std::copy(entry.key.bytes.begin(), entry.key.bytes.end(), record.key);
  record.own_checksum = ChecksumOf(record);
  return WriteAll(table_fd_, table_path_,
                  kSuperblockBytes + int64_t{entry.number} * static_cast<int64_t>(sizeof(Record)),
                  std::as_bytes(std::span(&record, 1)));
}

absl::Status DiskFile::ClearEntry(uint32_t number) {
  const Record cleared;
  return WriteAll(table_fd_, table_path_,
                  kSuperblockBytes + int64_t{number} * static_cast<int64_t>(sizeof(Record)),
                  std::as_bytes(std::span(&cleared, 1)));
}

absl::Status DiskFile::Read(int64_t offset, std::span<std::byte> bytes) const {
  return ReadAll(data_fd_, data_path_, offset, bytes);
}

absl::Status DiskFile::Write(int64_t offset, std::span<const std::byte> bytes) {
  return WriteAll(data_fd_, data_path_, offset, bytes);
}

absl::Status DiskFile::Sync() {
  if (fdatasync(data_fd_) != 0) return SystemError("syncing", data_path_);
  if (fdatasync(table_fd_) != 0) return SystemError("syncing", table_path_);
  return absl::OkStatus();
}

}  // namespace chorale
