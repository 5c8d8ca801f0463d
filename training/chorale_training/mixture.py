"""What the family's base learns from: skills and dialects, never the tasks themselves.

A document is (prompt, answer); plain documents have an empty prompt. The loss of prompt tokens
counts less, since names and numbers drawn at random teach nothing. A batch is a pure function of
(seed, step, rank), so an interrupted run goes on with the same data.
"""

import json
import random

import numpy as np

from chorale_training import tasks, tokenizer_bpe
from chorale_training.tasks import math as math_task
from chorale_training.tasks import tools as tools_task

PROMPT_WEIGHT = 0.2
_WORDS = ("red", "blue", "cat", "tree", "lamp", "moon", "fish", "door", "rain", "bird", "gold",
          "wind", "star", "ship", "road", "snow", "leaf", "rock", "hand", "fire", "song", "king",
          "milk", "wolf", "rose", "sand", "bell", "hill", "lake", "path")


def facts(rng):
    """Sums, differences and products, some as one step of a longer chain."""
    signs, separator = rng.choice(("+", "-", "*", "+-*")), rng.choice(("\n", "; ", ", ", " | "))
    spaced, lines = rng.random() < 0.5, []
    for _ in range(rng.randint(3, 7)):
        sign = rng.choice(signs)
        a, b = rng.randint(0, 60), rng.randint(0, 40)
        if sign == "*":
            a, b = rng.randint(1, 12), rng.randint(1, 12)
        if sign == "-" and b > a:
            a, b = b, a
        text = "{} {} {} = {}" if spaced else "{}{}{}={}"
        lines.append(text.format(a, sign, b, math_task.apply(a, sign, b)))
    return "", separator.join(lines)


def records(rng):
    """A JSON record; one field is asked for, or the record is copied, or a field changed."""
    keys = rng.sample(_WORDS, rng.randint(2, 5))
    pools = (_WORDS, tools_task.GOODS, tools_task.CITIES, tools_task.CHORES, tools_task.SONGS)
    values = [rng.choice(rng.choice(pools)) if rng.random() < 0.6 else rng.randint(0, 99)
              for _ in keys]
    record, key = dict(zip(keys, values)), rng.choice(keys)
    kind = rng.choice(("get", "get", "copy", "set", "lines"))
    if kind == "get":
        return f"{json.dumps(record)}\n{key}:\n", json.dumps(record[key])
    if kind == "copy":
        return f"{json.dumps(record)}\nSame:\n", json.dumps(record)
    if kind == "set":
        new = rng.choice(_WORDS)
        return f"{json.dumps(record)}\nNow {key} is {new}:\n", json.dumps({**record, key: new})
    return f"{json.dumps(record)}\nLines:\n", "\n".join(f"{k} = {v}" for k, v in record.items())


def recall(rng):
    """Words and numbers to repeat, in order, backwards, or the one after a given one."""
    words = [str(w) for w in rng.sample(_WORDS + tuple(range(10, 99)), rng.randint(3, 8))]
    kind = rng.choice(("again", "backwards", "after"))
    line = " ".join(words)
    if kind == "again":
        return f"{line}\nAgain:\n", line
    if kind == "backwards":
        return f"{line}\nBackwards:\n", " ".join(reversed(words))
    index = rng.randrange(len(words) - 1)
    return f"{line}\nAfter {words[index]}:\n", words[index + 1]


_SOURCES = ((facts, 14), (records, 8), (recall, 4), (tasks.module("math").dialect, 20),
            (tasks.module("tools").dialect, 20), (tasks.module("code").dialect, 18),
            (tasks.module("repair").dialect, 18))


def document(rng):
    """One (prompt, answer) of the mixture."""
    source = rng.choices([s for s, _ in _SOURCES], [w for _, w in _SOURCES])[0]
    return source(rng)


def tokenizer_texts(seed, count):
    """Texts to train the tokenizer on: the mixture, and the tasks, so that all have pieces."""
    rng = random.Random(seed)
    for _ in range(count):
        yield "".join(document(rng))
    for name in tasks.NAMES:
        for _ in range(count // 20):
            item = tasks.module(name).generate(rng)
            yield item.prompt + item.answer


class Batches:
    """Windows of `length` + 1 tokens with the weight of each token's loss.

    A share of the rows is cut from `corpus`, one array of token ids; the others are documents one
    after another, the first at the window's start, each ended by <|endoftext|>.
    """

    def __init__(self, tokenizer, corpus, seed, corpus_share):
        self._tokenizer, self._corpus, self._seed = tokenizer, corpus, seed
        self._corpus_share = corpus_share
        self._end = tokenizer.id_of(tokenizer_bpe.END_OF_TEXT)

    def _packed(self, rng, length):
        ids, weights = [], []
        while len(ids) <= length:
            prompt, answer = document(rng)
            head, tail = (self._tokenizer.encode_plain(t) for t in (prompt, answer))
            ids += [*head, *tail, self._end]
            weights += [PROMPT_WEIGHT] * len(head) + [1.0] * (len(tail) + 1)
        return ids[: length + 1], weights[: length + 1]

    def batch(self, step, rank, rows, length):
        """(ids int64, weights float32), each [rows, length + 1]."""
        rng = random.Random(f"{self._seed} {step} {rank}")
        ids, weights = [], []
        for _ in range(rows):
            if rng.random() < self._corpus_share:
                begin = rng.randrange(len(self._corpus) - length - 1)
                row, weight = self._corpus[begin : begin + length + 1], np.full(length + 1, 0.5)
            else:
                row, weight = self._packed(rng, length)
            ids.append(np.asarray(row, np.int64))
            weights.append(np.asarray(weight, np.float32))
        return np.stack(ids), np.stack(weights)
