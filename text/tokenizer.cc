#include "text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_format.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/token_decoder.h"
#include "text/utf8.h"

namespace chorale {

struct Tokenizer::Tables {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Bpe bpe;
  AddedTokens added;
  std::vector<TokenId> prefix;  // the post-processor's template around one text
  std::vector<TokenId> suffix;
  TokenDecoder decoder;
  std::vector<std::string> pieces;  // by id, added tokens included
  std::vector<std::string> bytes;   // likewise, as they decode
  std::vector<bool> special;
  absl::flat_hash_map<std::string, TokenId> ids;

  absl::Status CheckTemplate() const;
  absl::Status Encode(std::string_view text, std::vector<TokenId>& out) const;
  absl::Status EncodePlain(std::string_view text, bool first, std::vector<TokenId>& out) const;
};

namespace {

const Json& FieldOf(const Json& json, const char* field) {
  static const Json null;
  const auto it = json.find(field);
  return it == json.end() ? null : *it;
}

// Adds what a TemplateProcessing puts before and after one text.
absl::Status ParseTemplate(const Json& json, std::vector<TokenId>& prefix,
                           std::vector<TokenId>& suffix) {
  const Json& single = FieldOf(json, "single");
  const Json& specials = FieldOf(json, "special_tokens");
  if (!single.is_array() || !specials.is_object()) {
    return absl::InvalidArgumentError(
        "field 'post_processor': a TemplateProcessing has 'single' and 'special_tokens'");
  }
  bool before = true;
  for (const Json& item : single) {
    if (item.is_object() && item.contains("Sequence")) {
      before = false;
      continue;
    }
    const Json& token = item.is_object() ? FieldOf(item, "SpecialToken") : Json();
    ASSIGN_OR_RETURN(const std::string name, JsonString(token, "id"));
    const Json& special = FieldOf(specials, name.c_str());
    const Json& ids = special.is_object() ? FieldOf(special, "ids") : special;
    if (!ids.is_array()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "field 'post_processor.special_tokens': no ids of '%s'", name.substr(0, 80)));
    }
    for (const Json& id : ids) {
      if (!id.is_number_integer() || id < 0 || id > kTokenIdMax) {
        return absl::InvalidArgumentError(
            absl::StrFormat("field 'post_processor.special_tokens': id %s of '%s'",
                            DumpJson(id).substr(0, 80), name.substr(0, 80)));
      }
      (before ? prefix : suffix).push_back(id.get<TokenId>());
    }
  }
  return absl::OkStatus();
}

absl::Status ParsePostProcessor(const Json& json, std::vector<TokenId>& prefix,
                                std::vector<TokenId>& suffix) {
  if (json.is_null()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string type, JsonString(json, "type"));
  if (type == "ByteLevel") return absl::OkStatus();  // moves offsets only
  if (type == "TemplateProcessing") return ParseTemplate(json, prefix, suffix);
  const Json& list = FieldOf(json, "processors");
  if (type == "Sequence" && list.is_array()) {
    for (const Json& item : list) {
      ASSIGN_OR_RETURN(const std::string inner, JsonString(item, "type"));
      if (inner == "Sequence") {
        return absl::UnimplementedError("field 'post_processor': a Sequence within a Sequence");
      }
      RETURN_IF_ERROR(ParsePostProcessor(item, prefix, suffix));
    }
    return absl::OkStatus();
  }
  return absl::UnimplementedError(absl::StrFormat(
      "field 'post_processor.type': '%s' is not known; known are ByteLevel, TemplateProcessing, "
      "Sequence",
      type.substr(0, 80)));
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const Tables> tables) : tables_(std::move(tables)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::Load(const std::string& path) {
  ASSIGN_OR_RETURN(const Json json, ParseJsonFile(path));
  auto tokenizer = FromJson(json);
  if (tokenizer.ok()) return tokenizer;
  return absl::Status(tokenizer.status().code(),
                      absl::StrFormat("%s: %s", path, tokenizer.status().message()));
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::Parse(std::string_view text) {
  ASSIGN_OR_RETURN(const Json json, ParseJson(text, "tokenizer.json"));
  return FromJson(json);
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::FromJson(const Json& json) {
  if (!json.is_object()) return absl::InvalidArgumentError("expected a JSON object");
  ASSIGN_OR_RETURN(Normalizer normalizer, Normalizer::Parse(FieldOf(json, "normalizer")));
  ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::Parse(FieldOf(json, "pre_tokenizer")));
  ASSIGN_OR_RETURN(TokenDecoder decoder, TokenDecoder::Parse(FieldOf(json, "decoder")));
  if (pre_tokenizer.byte_level() != decoder.byte_level()) {
    return absl::InvalidArgumentError(
        "fields 'pre_tokenizer' and 'decoder': either both are ByteLevel or none");
  }
  ASSIGN_OR_RETURN(Bpe bpe, Bpe::Parse(FieldOf(json, "model"), pre_tokenizer.byte_level()));
  ASSIGN_OR_RETURN(AddedTokens added,
                   AddedTokens::Parse(FieldOf(json, "added_tokens"), normalizer));
  auto tables = std::make_unique<Tables>(Tables{.normalizer = std::move(normalizer),
                                                .pre_tokenizer = std::move(pre_tokenizer),
                                                .bpe = std::move(bpe),
                                                .added = std::move(added),
                                                .decoder = std::move(decoder)});
  RETURN_IF_ERROR(
      ParsePostProcessor(FieldOf(json, "post_processor"), tables->prefix, tables->suffix));
  Tables& t = *tables;
  t.pieces = t.bpe.pieces();
  for (size_t id = 0; id < t.pieces.size(); ++id) {
    t.bytes.push_back(t.decoder.Decode(t.bpe.bytes()[id]));
  }
  t.special.resize(t.pieces.size());
  for (const AddedToken& token : t.added.tokens()) {
    const size_t id = token.id;
    if (id >= t.pieces.size()) {
      t.pieces.resize(id + 1);
      t.bytes.resize(id + 1);
      t.special.resize(id + 1);
    }
    t.pieces[id] = t.bytes[id] = token.content;
    t.special[id] = token.special;
  }
  RETURN_IF_ERROR(t.CheckTemplate());
  for (size_t id = 0; id < t.pieces.size(); ++id) {
    if (!t.pieces[id].empty()) t.ids.emplace(t.pieces[id], static_cast<TokenId>(id));
  }
  return std::unique_ptr<const Tokenizer>(new Tokenizer(std::move(tables)));
}

absl::StatusOr<std::vector<TokenId>> Tokenizer::Encode(std::string_view text,
                                                       bool add_special_tokens) const {
  if (const auto offset = FindInvalidUtf8(text)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the text is not valid UTF-8 at byte %d", *offset));
  }
  std::vector<TokenId> ids;
  if (add_special_tokens) ids = tables_->prefix;
  RETURN_IF_ERROR(tables_->Encode(text, ids));
  if (add_special_tokens) {
    ids.insert(ids.end(), tables_->suffix.begin(), tables_->suffix.end());
  }
  return ids;
}

absl::Status Tokenizer::Tables::CheckTemplate() const {
  for (const std::vector<TokenId>* part : {&prefix, &suffix}) {
    for (TokenId id : *part) {
      if (id >= static_cast<TokenId>(pieces.size()) || pieces[id].empty()) {
        return absl::InvalidArgumentError(absl::StrFormat(
            "field 'post_processor.special_tokens': id %d is not in the vocabulary", id));
      }
    }
  }
  return absl::OkStatus();
}

// Added tokens are found before normalising, or after, as each says.
absl::Status Tokenizer::Tables::Encode(std::string_view text, std::vector<TokenId>& out) const {
  absl::Status status;
  const auto take = [&](TokenId id) { out.push_back(id); };
  added.Split(text, /*normalized=*/false, take, [&](std::string_view raw, bool first) {
    if (!status.ok()) return;
    if (normalizer.changes_nothing() && !added.any_normalized()) {
      status = EncodePlain(raw, first, out);
      return;
    }
    const std::string normal = normalizer.Apply(std::string(raw));
    added.Split(normal, /*normalized=*/true, take, [&](std::string_view plain, bool inner_first) {
      if (status.ok()) status = EncodePlain(plain, first && inner_first, out);
    });
  });
  return status;
}

absl::Status Tokenizer::Tables::EncodePlain(std::string_view text, bool first,
                                            std::vector<TokenId>& out) const {
  return pre_tokenizer.Split(text, first, [&](std::string_view word) { bpe.Encode(word, out); });
}

std::string Tokenizer::Decode(std::span<const TokenId> ids, bool skip_special_tokens) const {
  std::string bytes;
  int spaces_to_strip = leading_spaces_stripped();
  for (TokenId id : ids) {
    if (!(skip_special_tokens && IsSpecial(id))) bytes += BytesOf(id);
  }
  size_t begin = 0;
  while (spaces_to_strip-- > 0 && begin < bytes.size() && bytes[begin] == ' ') ++begin;
  return ToValidUtf8(bytes.substr(begin));
}

const std::vector<TokenId>& Tokenizer::added_before() const { return tables_->prefix; }
const std::vector<TokenId>& Tokenizer::added_behind() const { return tables_->suffix; }

int Tokenizer::vocab_size() const { return static_cast<int>(tables_->pieces.size()); }

std::optional<TokenId> Tokenizer::IdOf(std::string_view piece) const {
  const auto it = tables_->ids.find(std::string(piece));
  if (it == tables_->ids.end()) return std::nullopt;
  return it->second;
}

std::string_view Tokenizer::PieceOf(TokenId id) const {
  return id >= 0 && id < vocab_size() ? std::string_view(tables_->pieces[id]) : "";
}

bool Tokenizer::IsSpecial(TokenId id) const {
  return id >= 0 && id < vocab_size() && tables_->special[id];
}

std::string_view Tokenizer::BytesOf(TokenId id) const {
  return id >= 0 && id < vocab_size() ? std::string_view(tables_->bytes[id]) : "";
}

int Tokenizer::leading_spaces_stripped() const { return tables_->decoder.spaces_stripped(); }

}  // namespace chorale
