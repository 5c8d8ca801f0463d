#include "model/checkpoint/text_digest.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"

namespace chorale {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFiles[] = {"config.json",
                                  "generation_config.json",
                                  "tokenizer.json",
                                  "tokenizer_config.json",
                                  "special_tokens_map.json",
                                  "chat_template.json",
                                  "chat_template.jinja"};
constexpr char kTemplates[] = "additional_chat_templates";

absl::Status Add(const fs::path& path, DigestBuilder& digest) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in) return absl::UnavailableError(absl::StrFormat("%s: cannot be read", path.string()));
  digest.AddString(path.filename().string()).AddString(text.str());
  return absl::OkStatus();
}

absl::Status AddFolder(const fs::path& folder, DigestBuilder& digest) {
  std::error_code error;
  for (const char* name : kFiles) {
    if (fs::is_regular_file(folder / name, error)) RETURN_IF_ERROR(Add(folder / name, digest));
  }
  std::vector<fs::path> templates;
  for (fs::directory_iterator it(folder / kTemplates, error), end; !error && it != end;
       it.increment(error)) {
    if (it->is_regular_file(error)) templates.push_back(it->path());
  }
  std::sort(templates.begin(), templates.end());
  for (const fs::path& path : templates) RETURN_IF_ERROR(Add(path, digest));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Digest> TextDigest(const std::string& folder, const std::string& text_folder) {
  DigestBuilder digest;
  RETURN_IF_ERROR(AddFolder(folder, digest));
  if (text_folder != folder) RETURN_IF_ERROR(AddFolder(text_folder, digest.AddString("text")));
  return digest.Finish();
}

}  // namespace chorale
