"""The family's four tasks: what a prompt looks like, its one right answer, and how to score.

A task module has

    generate(rng) -> Item     an item, of the training part or of the held-out part
    dialect(rng) -> (prompt, answer)   the same skill in other words and another answer layout, for
                              the base: it learns to read and to reason, never the task's own frame
    score_all(items, outputs) -> [bool]

An item's `key` is what is asked, without names and wording. A key belongs to the held-out part by
its hash; dialects leave those keys out too, so neither base nor fine-tune has met what is scored.
"""

import dataclasses
import hashlib
import importlib
import json

NAMES = ("math", "tools", "code", "repair")
HELD_OUT_PERCENT = 8


@dataclasses.dataclass(frozen=True)
class Item:
    """prompt and answer are text, tokenised apart; extra is what the scorer needs besides."""

    prompt: str
    answer: str
    extra: dict
    key: str

    def to_json(self):
        return {"prompt": self.prompt, "answer": self.answer, "extra": self.extra}


def module(name):
    """The task module called `name`; ValueError when there is none."""
    if name not in NAMES:
        raise ValueError(f"task {name!r} is not one of {', '.join(NAMES)}")
    return importlib.import_module(f"chorale_training.tasks.{name}")


def is_held_out(key):
    """True for the keys that training never sees."""
    digest = hashlib.sha256(str(key).encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_PERCENT / 100 * 2**32


def draw(sample, rng, held_out=False):
    """The first result of sample(rng) whose key, its first part, is of the wanted part."""
    for _ in range(10_000):
        drawn = sample(rng)
        if is_held_out(drawn[0]) == held_out:
            return drawn
    raise RuntimeError("no key of the wanted part in 10,000 draws; widen the task's space")


def held_out_items(name, count, rng):
    """`count` different items of the held-out part."""
    generate, found = module(name).generate, {}
    while len(found) < count:
        item = generate(rng, held_out=True)
        found[item.prompt] = item
    return list(found.values())


def load_items(path):
    """The items of a jsonl file of {prompt, answer, extra}."""
    with open(path, encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return [Item(r["prompt"], r["answer"], r["extra"], "") for r in records]
