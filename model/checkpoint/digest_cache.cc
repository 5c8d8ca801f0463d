#include "model/checkpoint/digest_cache.h"

#include <filesystem>
#include <fstream>
#include <map>

#include <unistd.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/json.h"

namespace chorale {
namespace {

namespace fs = std::filesystem;

// Entries of files that are gone pile up; beyond so many, those written first are removed.
constexpr size_t kEntriesMax = 256;

void RemoveOldest(const std::string& folder) {
  std::error_code error;
  std::multimap<fs::file_time_type, fs::path> entries;
  for (auto it = fs::directory_iterator(folder, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    entries.emplace(it->last_write_time(error), it->path());
  }
  for (size_t i = entries.size(); i > kEntriesMax; --i) {
    fs::remove(entries.begin()->second, error);
    entries.erase(entries.begin());
  }
}

std::string PathOf(const std::string& folder, const Checkpoint& checkpoint) {
  return absl::StrCat(folder, "/", checkpoint.identity().ToHex(), ".json");
}

}  // namespace

TensorDigests ReadDigests(const std::string& folder, const Checkpoint& checkpoint) {
  if (folder.empty()) return {};
  const absl::StatusOr<Json> json = ParseJsonFile(PathOf(folder, checkpoint));
  if (!json.ok() || !json->is_object()) return {};
  TensorDigests digests;
  for (const auto& [name, hex] : json->items()) {
    if (!hex.is_string()) return {};
    const auto digest = Digest::FromBytes(absl::HexStringToBytes(hex.get<std::string>()));
    if (!digest.ok()) return {};
    digests[name] = *digest;
  }
  return digests;
}

void WriteDigests(const std::string& folder, const Checkpoint& checkpoint,
                  const TensorDigests& digests) {
  if (folder.empty()) return;
  Json json = Json::object();
  for (const auto& [name, digest] : digests) json[name] = digest.ToHex();
  std::error_code error;
  fs::create_directories(folder, error);
  // Several processes may write the same at once: each under a name of its own first.
  const std::string path = PathOf(folder, checkpoint);
  const std::string partial = absl::StrCat(path, ".", getpid());
  std::ofstream file(partial);
  file << DumpJson(json) << std::flush;
  if (file) fs::rename(partial, path, error);
  if (!file || error) fs::remove(partial, error);
  RemoveOldest(folder);
}

}  // namespace chorale
