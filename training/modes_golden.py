#!/usr/bin/env python3
"""Writes models/family/modes_golden.json: ids and logits of one model of each mode and form.

    python3 training/modes_golden.py

Computed in float32 from the stored files. Another engine gives the same ids, and logits that differ
by rounding only.
"""

import argparse
import json
import os
import sys

import torch

from chorale_training import export, family, modes, recipes, tasks, tokenizer_bpe

_OUTPUT_TOKENS = 24
# One of each mode and form; the adapters of different tasks.
MODELS = ("code-full", "tools-lora", "code-prefillshare-full", "repair-prefillshare",
          "code-sun-full", "tools-sun", "math")


def compute(folder, name):
    """The record of a model: greedy ids and the logits of the first two predicted tokens."""
    base, tokenizer = recipes.load_base(os.path.join(folder, "base"))
    entry = family.read_config(folder)[name]
    trio = family.trio_of(folder, entry, base)
    item = tasks.load_items(os.path.join(folder, "heldout", f"{entry.task}.jsonl"))[0]
    ids = tokenizer.encode(item.prompt)
    end = tokenizer.id_of(tokenizer_bpe.END_OF_TEXT)
    (output,), logits = modes.greedy(trio, [ids], _OUTPUT_TOKENS, end, keep_logits=True)
    first, second = ([round(v, 6) for v in logits[step, 0].tolist()] for step in (0, 1))
    return {"model": name, "mode": entry.mode, "prompt_ids": ids, "output_ids": output,
            "ended": len(output) < _OUTPUT_TOKENS, "first_logits": first, "second_logits": second}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--family", default="models/family", help="folder of the family")
    flags = parser.parse_args(arguments)
    torch.set_num_threads(1)
    known = family.read_config(flags.family)
    records = [compute(flags.family, name) for name in MODELS if name in known]
    lines = ",\n".join(json.dumps(record) for record in records)
    export.write_text(os.path.join(flags.family, "modes_golden.json"),
                      f'{{"dtype": "float32", "models": [\n{lines}]}}\n')
    for record in records:
        print(record["model"], record["mode"], len(record["output_ids"]))
    missing = [name for name in MODELS if name not in known]
    if missing:
        print("not in chorale.yaml, left out:", ", ".join(missing), file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
