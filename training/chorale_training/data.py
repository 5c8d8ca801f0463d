"""A text corpus as training windows: read, split by file, tokenize once, cut.

Corpus: jsonl of {"package", "path", "text"}, plain or .xz. A file belongs to the held-out part by a
hash of its package and path, so the split is the same on every machine and in every recipe.
"""

import hashlib
import json
import lzma

import numpy as np

from chorale_training import tokenizer_bpe


def read_corpus(path):
    """Yields (name, text) of every document of the jsonl or jsonl.xz at `path`."""
    opener = lzma.open if str(path).endswith(".xz") else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            record = json.loads(line)
            for field in ("package", "path", "text"):
                if not isinstance(record.get(field), str):
                    raise ValueError(f"{path}:{number}: field {field!r} is not a string")
            yield f"{record['package']}/{record['path']}", record["text"]


def _draw(name):
    """A number in [0, 2^64) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def split(documents, held_out_percent):
    """(training, held out), each a list of (name, text) in an order drawn from the names."""
    limit = int(held_out_percent / 100 * 2**64)
    ordered = sorted(documents, key=lambda document: _draw("order:" + document[0]))
    held_out = [d for d in ordered if _draw(d[0]) < limit]
    training = [d for d in ordered if _draw(d[0]) >= limit]
    return training, held_out


def tokenize(documents, tokenizer, progress=None):
    """One uint16 array: <|endoftext|> before every document, and one at the end."""
    end = tokenizer.id_of(tokenizer_bpe.END_OF_TEXT)
    parts = []
    for i, (_, text) in enumerate(documents):
        parts.append(np.array([end, *tokenizer.encode_plain(text)], dtype=np.uint16))
        if progress and i % 500 == 499:
            progress(i + 1, len(documents))
    return np.concatenate([*parts, np.array([end], dtype=np.uint16)])


class Windows:
    """Windows of `length` + 1 tokens, every window once an epoch, in an order drawn from `seed`.

    A pure function of the window's number, so that a resumed run goes on where it stopped.
    """

    def __init__(self, tokens, length, seed):
        self._tokens, self._length, self._seed = tokens, length, seed
        self._per_epoch = (len(tokens) - 1) // length - 1
        if self._per_epoch < 1:
            raise ValueError(f"{len(tokens)} tokens are too few for windows of {length}")
        self._epoch, self._starts = None, None

    def _starts_of(self, epoch):
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, self._length, epoch])
            shift = rng.integers(self._length)
            self._starts = rng.permutation(self._per_epoch) * self._length + shift
            self._epoch = epoch
        return self._starts

    def batch(self, first, count):
        """Windows first .. first + count - 1 as an int64 array [count, length + 1]."""
        rows = []
        for number in range(first, first + count):
            epoch, index = divmod(number, self._per_epoch)
            start = self._starts_of(epoch)[index]
            rows.append(self._tokens[start : start + self._length + 1])
        return np.stack(rows).astype(np.int64)
