"""Byte-level BPE: a trainer, an encoder, and Hugging Face's tokenizer.json.

Text is cut into words by the Qwen2 pattern, words become UTF-8 bytes, and learned merges join them.
The trainer counts words once, then keeps the counts of neighbouring pairs up to date while it
merges, so a merge costs only the words that contain it. Ties go to the pair with the smaller ids,
so that training is deterministic.

A Tokenizer remembers the pieces of every word it has met; it is not for use from several threads.
"""

import heapq
import json
import re
import sys
import unicodedata
from collections import Counter

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Unicode White_Space. Python's own \s has four control characters more.
_WHITE_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

END_OF_TEXT = "<|endoftext|>"
# Special tokens give no text when special tokens are skipped; the tool tags are text.
SPECIAL_TOKENS = (END_OF_TEXT, "<|im_start|>", "<|im_end|>")
TOOL_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
RESERVED_TOKENS = tuple(f"<|reserved_{i}|>" for i in range(9))
ADDED_TOKENS = SPECIAL_TOKENS + TOOL_TOKENS + RESERVED_TOKENS


def _ranges_of(major_category):
    """The code points of a general category ("L", "N") as the inside of a character class."""
    ranges, start = [], None
    for code in range(sys.maxunicode + 2):
        inside = code <= sys.maxunicode and unicodedata.category(chr(code))[0] == major_category
        if inside and start is None:
            start = code
        elif not inside and start is not None:
            ranges.append((start, code - 1))
            start = None
    return "".join(f"\\U{a:08x}-\\U{b:08x}" for a, b in ranges)


def _compile(letters, numbers, spaces):
    """QWEN2_PATTERN for Python's re, which knows no \\p{..}: the classes are written out."""
    pattern = QWEN2_PATTERN.replace(r"[^\r\n\p{L}\p{N}]", f"[^\\r\\n{letters}{numbers}]")
    pattern = pattern.replace(r"[^\s\p{L}\p{N}]", f"[^{spaces}{letters}{numbers}]")
    pattern = pattern.replace(r"\p{L}", f"[{letters}]").replace(r"\p{N}", f"[{numbers}]")
    return re.compile(pattern.replace(r"\s", f"[{spaces}]").replace(r"\S", f"[^{spaces}]"))


_ascii_words = _compile("A-Za-z", "0-9", r"\t-\r ")
_unicode_words = None


def split_words(text):
    """The words of `text` in order; they add up to `text`."""
    global _unicode_words
    if text.isascii():
        return _ascii_words.findall(text)
    if _unicode_words is None:
        _unicode_words = _compile(_ranges_of("L"), _ranges_of("N"), _WHITE_SPACE)
    return _unicode_words.findall(text)


def _byte_characters():
    """byte -> the printable character that stands for it in tokenizer.json (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table, spare = {byte: chr(byte) for byte in printable}, 0x100
    for byte in range(256):
        if byte not in table:
            table[byte] = chr(spare)
            spare += 1
    return table


_CHARACTER_OF = _byte_characters()
_BYTE_OF = {character: byte for byte, character in _CHARACTER_OF.items()}


class _PairCounts:
    """How often each pair of neighbours occurs in the counted words, and in which words."""

    def __init__(self, words, counts):
        self._words, self._counts = words, counts
        self._count_of, self._words_of = Counter(), {}
        for index in range(len(words)):
            self._add(index, 1)
        self._heap = [(-count, pair) for pair, count in self._count_of.items()]
        heapq.heapify(self._heap)

    def _add(self, index, sign):
        word, count = self._words[index], self._counts[index] * sign
        for pair in zip(word, word[1:]):
            self._count_of[pair] += count
            if sign > 0:
                self._words_of.setdefault(pair, set()).add(index)

    def most_frequent(self):
        """(pair, count) with the highest count; None when no pair occurs twice."""
        while self._heap:
            negative_count, pair = heapq.heappop(self._heap)
            count = self._count_of[pair]
            if count == -negative_count:
                return (pair, count) if count > 1 else None
            if count > 0:
                heapq.heappush(self._heap, (-count, pair))
        return None

    def merge(self, pair, new_id):
        touched = set()
        for index in self._words_of.pop(pair):
            old = self._words[index]
            new = _merged(old, pair, new_id)
            if len(new) == len(old):
                continue  # an earlier merge took the pair out of this word
            self._add(index, -1)
            touched.update(zip(old, old[1:]))
            self._words[index] = new
            self._add(index, 1)
            touched.update(zip(new, new[1:]))
        for changed in touched:
            if self._count_of[changed] > 0:
                heapq.heappush(self._heap, (-self._count_of[changed], changed))


def _merged(ids, pair, new_id):
    out, i, last = [], 0, len(ids) - 1
    while i <= last:
        if i < last and ids[i] == pair[0] and ids[i + 1] == pair[1]:
            out.append(new_id)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def train(texts, vocab_size, progress=None):
    """A Tokenizer of `vocab_size` pieces, added tokens included, learned from the strings `texts`.

    `progress(merges_done, merges_total)` is called now and then. Fewer pieces come out when the
    texts have no pair left that occurs twice.
    """
    pieces = [t.encode() for t in ADDED_TOKENS]
    pieces += [bytes([_BYTE_OF[c]]) for c in sorted(_BYTE_OF)]
    if vocab_size < len(pieces):
        raise ValueError(f"vocab_size {vocab_size} is below {len(pieces)}: bytes and added tokens")
    id_of_byte = {piece[0]: i for i, piece in enumerate(pieces) if i >= len(ADDED_TOKENS)}
    counts = Counter()
    for text in texts:
        counts.update(split_words(text))
    words = [[id_of_byte[b] for b in word.encode()] for word in counts]
    pairs = _PairCounts(words, list(counts.values()))
    merges, total = [], vocab_size - len(pieces)
    while len(merges) < total:
        best = pairs.most_frequent()
        if best is None:
            break
        (left, right), _ = best
        merges.append((left, right))
        pieces.append(pieces[left] + pieces[right])
        pairs.merge((left, right), len(pieces) - 1)
        if progress and len(merges) % 256 == 0:
            progress(len(merges), total)
    return Tokenizer(pieces, merges)


class Tokenizer:
    """pieces: bytes by id, the added tokens first. merges: (left id, right id) by rank."""

    def __init__(self, pieces, merges):
        self.pieces, self.merges = pieces, merges
        first_byte = len(ADDED_TOKENS)
        self._id_of_byte = {pieces[i][0]: i for i in range(first_byte, first_byte + 256)}
        self._id_of_piece = {piece: i for i, piece in enumerate(pieces)}
        self._rank = {pair: rank for rank, pair in enumerate(merges)}
        self._added = re.compile("(" + "|".join(re.escape(t) for t in ADDED_TOKENS) + ")")
        self._ids_of_word = {}

    @property
    def vocab_size(self):
        return len(self.pieces)

    def id_of(self, token):
        """The id of an added token."""
        return ADDED_TOKENS.index(token)

    def encode(self, text):
        """Ids of `text`; added tokens in the text are recognised."""
        ids = []
        for i, part in enumerate(self._added.split(text)):
            if i % 2:
                ids.append(self.id_of(part))
            else:
                ids += self.encode_plain(part)
        return ids

    def encode_plain(self, text):
        """Ids of `text` where "<|endoftext|>" and its like are ordinary characters."""
        ids, known = [], self._ids_of_word
        for word in split_words(text):
            found = known.get(word)
            if found is None:
                found = known[word] = self._encode_word(word)
            ids += found
        return ids

    def _encode_word(self, word):
        ids = [self._id_of_byte[b] for b in word.encode()]
        while len(ids) > 1:
            rank, pair = min(
                (self._rank.get(p, len(self.merges)), p) for p in zip(ids, ids[1:])
            )
            if rank == len(self.merges):
                break
            ids = _merged(ids, pair, self._id_of_piece[self.pieces[pair[0]] + self.pieces[pair[1]]])
        return ids

    def decode_bytes(self, ids):
        return b"".join(self.pieces[i] for i in ids)

    def decode(self, ids):
        """The text of `ids`; bytes that form no code point become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def _written(self, id_):
        if id_ < len(ADDED_TOKENS):
            return ADDED_TOKENS[id_]
        return "".join(_CHARACTER_OF[b] for b in self.pieces[id_])

    def to_json(self):
        """The contents of tokenizer.json as a dict."""
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                      "use_regex": False}
        added = [
            {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": token not in TOOL_TOKENS}
            for i, token in enumerate(ADDED_TOKENS)
        ]
        split = {"type": "Split", "pattern": {"Regex": QWEN2_PATTERN}, "behavior": "Isolated",
                 "invert": False}
        return {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "post_processor": None, "decoder": byte_level,
            "model": {
                "type": "BPE", "dropout": None, "unk_token": None,
                "continuing_subword_prefix": None, "end_of_word_suffix": None,
                "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                "vocab": {self._written(i): i for i in range(self.vocab_size)},
                "merges": [f"{self._written(a)} {self._written(b)}" for a, b in self.merges],
            },
        }

    def to_text(self):
        """tokenizer.json as it is written."""
        return json.dumps(self.to_json(), ensure_ascii=False, indent=1) + "\n"

    @staticmethod
    def from_json(contents):
        """The inverse of to_json; ValueError for a tokenizer that was not written by it."""
        added = tuple(token["content"] for token in contents["added_tokens"])
        if added != ADDED_TOKENS:
            raise ValueError(f"added_tokens {added} are not those of this trainer, {ADDED_TOKENS}")
        vocab = contents["model"]["vocab"]
        pieces = [b""] * len(vocab)
        for written, id_ in vocab.items():
            if id_ < len(added):
                pieces[id_] = written.encode()
            else:
                pieces[id_] = bytes(_BYTE_OF[c] for c in written)
        merges = [tuple(vocab[side] for side in m.split(" ")) for m in contents["model"]["merges"]]
        return Tokenizer(pieces, merges)


def load(path):
    with open(path, encoding="utf-8") as file:
        return Tokenizer.from_json(json.load(file))
