#include "text/bpe.h"

#include <algorithm>
#include <array>
#include <queue>
#include <utility>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "text/utf8.h"

namespace chorale {
namespace {

// Up to here the next merge is found by looking at all pairs, beyond with a heap.
constexpr size_t kShortWord = 48;

// Printable bytes stand for themselves, the others for 256, 257, ... in order.
std::array<char32_t, 256> Alphabet() {
  std::array<char32_t, 256> alphabet;
  char32_t next = 256;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    alphabet[b] = printable ? static_cast<char32_t>(b) : next++;
  }
  return alphabet;
}

// "<0x0A>" is the byte 10.
int ByteOfFallback(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  int value = 0;
  for (char c : piece.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

// The bytes that a piece of a byte-level vocabulary is written for; a piece with other code points
// (an added token that is in the vocabulary too) stands for itself.
std::string BytesOfPiece(const std::string& piece) {
  std::string bytes;
  for (size_t i = 0; i < piece.size();) {
    const CodePoint c = CodePointAt(piece, i);
    const int byte = c.valid ? ByteOfAlphabet(c.value) : -1;
    if (byte < 0) return piece;
    bytes += static_cast<char>(byte);
    i += c.bytes;
  }
  return bytes;
}

uint64_t PairKey(TokenId left, TokenId right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

// The two sides of a merge: ["a", "b"] or "a b".
absl::StatusOr<std::pair<std::string, std::string>> SidesOf(const Json& merge, size_t index) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return std::pair(merge[0].get<std::string>(), merge[1].get<std::string>());
  }
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
      return std::pair(text.substr(0, space), text.substr(space + 1));
    }
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("field 'model.merges[%d]': expected two pieces, found %s", index,
                      DumpJson(merge).substr(0, 80)));
}

absl::Status RefuseUnknown(const Json& model) {
  ASSIGN_OR_RETURN(const std::string type, JsonString(model, "type", "BPE"));
  if (type != "BPE") {
    return absl::UnimplementedError(
        absl::StrFormat("field 'model.type': '%s' is not known; known is BPE", type.substr(0, 80)));
  }
  for (const char* field : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::string value, JsonString(model, field, ""));
    if (!value.empty()) {
      return absl::UnimplementedError(
          absl::StrFormat("field 'model.%s': '%s' is not known", field, value.substr(0, 80)));
    }
  }
  ASSIGN_OR_RETURN(const double dropout, JsonNumber(model, "dropout", 0));
  if (dropout != 0) return absl::UnimplementedError("field 'model.dropout': must be 0 to serve");
  return absl::OkStatus();
}

}  // namespace

int ByteOfAlphabet(char32_t c) {
  static const std::vector<int16_t> bytes = [] {
    std::vector<int16_t> table(512, -1);
    const std::array<char32_t, 256> alphabet = Alphabet();
    for (int b = 0; b < 256; ++b) table[alphabet[b]] = static_cast<int16_t>(b);
    return table;
  }();
  return c < bytes.size() ? bytes[c] : -1;
}

absl::StatusOr<Bpe> Bpe::Parse(const Json& model, bool byte_level) {
  if (!model.is_object()) {
    return absl::InvalidArgumentError("field 'model': missing or not an object");
  }
  RETURN_IF_ERROR(RefuseUnknown(model));
  Bpe bpe;
  bpe.byte_level_ = byte_level;
  ASSIGN_OR_RETURN(bpe.byte_fallback_, JsonBool(model, "byte_fallback", false));
  ASSIGN_OR_RETURN(bpe.ignore_merges_, JsonBool(model, "ignore_merges", false));
  ASSIGN_OR_RETURN(bpe.fuse_unknown_, JsonBool(model, "fuse_unk", false));
  RETURN_IF_ERROR(bpe.AddPieces(model));
  RETURN_IF_ERROR(bpe.AddMerges(model));
  bpe.AddWords();
  return bpe;
}

absl::Status Bpe::AddPieces(const Json& model) {
  const auto vocab = model.find("vocab");
  if (vocab == model.end() || !vocab->is_object() || vocab->empty()) {
    return absl::InvalidArgumentError("field 'model.vocab': expected an object of pieces and ids");
  }
  for (const auto& [piece, id] : vocab->items()) {
    if (!id.is_number_integer() || id < 0 || id > kTokenIdMax) {
      return absl::InvalidArgumentError(
          absl::StrFormat("field 'model.vocab': the id of '%s' is %s, not within [0, %d]",
                          piece.substr(0, 80), DumpJson(id).substr(0, 80), kTokenIdMax));
    }
    const size_t index = id.get<size_t>();
    if (index >= pieces_.size()) pieces_.resize(index + 1);
    if (!pieces_[index].empty()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("field 'model.vocab': '%s' and '%s' have the same id %d",
                          pieces_[index].substr(0, 80), piece.substr(0, 80), index));
    }
    pieces_[index] = piece;
  }
  byte_ids_.assign(256, -1);
  for (size_t id = 0; id < pieces_.size(); ++id) {
    const int fallback = byte_fallback_ ? ByteOfFallback(pieces_[id]) : -1;
    bytes_.push_back(fallback >= 0 ? std::string(1, static_cast<char>(fallback))
                     : byte_level_ ? BytesOfPiece(pieces_[id])
                                   : pieces_[id]);
    if (fallback >= 0) byte_ids_[fallback] = static_cast<TokenId>(id);
    if (byte_level_ && bytes_[id].size() == 1 && pieces_[id] != "") {
      byte_ids_[static_cast<uint8_t>(bytes_[id][0])] = static_cast<TokenId>(id);
    }
  }
  ASSIGN_OR_RETURN(const std::string unknown, JsonString(model, "unk_token", ""));
  if (unknown.empty()) return absl::OkStatus();
  const auto it = vocab->find(unknown);
  if (it == vocab->end()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "field 'model.unk_token': '%s' is not in the vocabulary", unknown.substr(0, 80)));
  }
  unknown_ = it->get<TokenId>();
  return absl::OkStatus();
}

absl::Status Bpe::AddMerges(const Json& model) {
  const auto merges = model.find("merges");
  if (merges == model.end() || !merges->is_array() || merges->empty()) {
    return absl::InvalidArgumentError(
        "field 'model.merges': missing or empty; export the tokenizer with its merges");
  }
  const Json& vocab = model["vocab"];
  for (size_t rank = 0; rank < merges->size(); ++rank) {
    ASSIGN_OR_RETURN(const auto sides, SidesOf((*merges)[rank], rank));
    TokenId ids[3];
    const std::string pieces[3] = {sides.first, sides.second, sides.first + sides.second};
    for (int i = 0; i < 3; ++i) {
      const auto it = vocab.find(pieces[i]);
      if (it == vocab.end()) {
        return absl::InvalidArgumentError(
            absl::StrFormat("field 'model.merges[%d]': '%s' is not in the vocabulary", rank,
                            pieces[i].substr(0, 80)));
      }
      ids[i] = it->get<TokenId>();
    }
    merges_.try_emplace(PairKey(ids[0], ids[1]), Merge{static_cast<int>(rank), ids[2]});
  }
  return absl::OkStatus();
}

// Most words of a text are pieces as they stand. Which of them come out whole is found once.
void Bpe::AddWords() {
  words_.reserve(bytes_.size());
  std::vector<TokenId> ids;
  for (size_t i = 0; i < bytes_.size(); ++i) {
    if (pieces_[i].empty() || (!byte_level_ && bytes_[i] != pieces_[i])) continue;
    const TokenId id = static_cast<TokenId>(i);
    const auto [it, inserted] =
        words_.try_emplace(absl::string_view(bytes_[i].data(), bytes_[i].size()), Word{.id = id});
    if (!inserted) continue;
  }
  for (auto& [bytes, word] : words_) {
    ids.clear();
    Encode(std::string_view(bytes.data(), bytes.size()), ids);
    word.whole = ignore_merges_ || (ids.size() == 1 && ids[0] == word.id);
  }
}

const Bpe::Merge* Bpe::Find(TokenId left, TokenId right) const {
  const auto it = merges_.find(PairKey(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

void Bpe::Encode(std::string_view word, std::vector<TokenId>& ids) const {
  const auto it = words_.find(absl::string_view(word.data(), word.size()));
  if (it != words_.end() && it->second.whole) {
    ids.push_back(it->second.id);
    return;
  }
  const size_t begin = ids.size();
  Symbols(word, ids);
  if (ids.size() - begin <= kShortWord) {
    MergeShort(ids, begin);
  } else {
    MergeLong(ids, begin);
  }
}

void Bpe::Symbols(std::string_view word, std::vector<TokenId>& ids) const {
  if (byte_level_) {
    for (char c : word) {
      const TokenId id = byte_ids_[static_cast<uint8_t>(c)];
      if (id >= 0) {
        ids.push_back(id);
      } else if (unknown_ >= 0) {
        ids.push_back(unknown_);
      }
    }
    return;
  }
  const size_t begin = ids.size();
  for (size_t i = 0; i < word.size();) {
    const int bytes = CodePointAt(word, i).bytes;
    AddCodePoint(word.substr(i, bytes), begin, ids);
    i += bytes;
  }
}

void Bpe::AddCodePoint(std::string_view code_point, size_t begin, std::vector<TokenId>& ids) const {
  const auto it = words_.find(absl::string_view(code_point.data(), code_point.size()));
  if (it != words_.end()) {
    ids.push_back(it->second.id);
    return;
  }
  const bool by_bytes =
      byte_fallback_ && std::all_of(code_point.begin(), code_point.end(), [&](char c) {
        return byte_ids_[static_cast<uint8_t>(c)] >= 0;
      });
  if (by_bytes) {
    for (char c : code_point) ids.push_back(byte_ids_[static_cast<uint8_t>(c)]);
  } else if (unknown_ >= 0 && !(fuse_unknown_ && ids.size() > begin && ids.back() == unknown_)) {
    ids.push_back(unknown_);
  }
}

void Bpe::MergeShort(std::vector<TokenId>& ids, size_t begin) const {
  const Merge* pairs[kShortWord];  // pairs[i]: of symbols i and i + 1
  size_t size = ids.size() - begin;
  TokenId* symbols = ids.data() + begin;
  for (size_t i = 0; i + 1 < size; ++i) pairs[i] = Find(symbols[i], symbols[i + 1]);
  while (size > 1) {
    size_t best = size;
    for (size_t i = 0; i + 1 < size; ++i) {
      if (pairs[i] && (best == size || pairs[i]->rank < pairs[best]->rank)) best = i;
    }
    if (best == size) break;
    symbols[best] = pairs[best]->result;
    std::copy(symbols + best + 2, symbols + size, symbols + best + 1);
    if (best + 2 < size) std::copy(pairs + best + 2, pairs + size - 1, pairs + best + 1);
    --size;
    if (best > 0) pairs[best - 1] = Find(symbols[best - 1], symbols[best]);
    if (best + 1 < size) pairs[best] = Find(symbols[best], symbols[best + 1]);
  }
  ids.resize(begin + size);
}

void Bpe::MergeLong(std::vector<TokenId>& ids, size_t begin) const {
  struct Symbol {
    TokenId id;
    int previous;
    int next;  // -1: none
  };
  struct Candidate {
    int rank;
    int left;  // index of the left symbol
    TokenId left_id, right_id;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };
  const int size = static_cast<int>(ids.size() - begin);
  std::vector<Symbol> symbols(size);
  for (int i = 0; i < size; ++i) {
    symbols[i] = {ids[begin + i], i - 1, i + 1 < size ? i + 1 : -1};
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto offer = [&](int left) {
    if (left < 0 || symbols[left].next < 0) return;
    const TokenId a = symbols[left].id;
    const TokenId b = symbols[symbols[left].next].id;
    if (const Merge* merge = Find(a, b)) queue.push({merge->rank, left, a, b});
  };
  for (int i = 0; i < size; ++i) offer(i);
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Symbol& left = symbols[top.left];
    if (left.id != top.left_id || left.next < 0 || symbols[left.next].id != top.right_id) continue;
    Symbol& right = symbols[left.next];
    left.id = Find(top.left_id, top.right_id)->result;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[left.next].previous = top.left;
    offer(left.previous);
    offer(top.left);
  }
  ids.resize(begin);
  for (int i = size == 0 ? -1 : 0; i >= 0; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace chorale
