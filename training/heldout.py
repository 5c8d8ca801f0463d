#!/usr/bin/env python3
"""Writes the held-out items of every task: models/family/heldout/<task>.jsonl.

    python3 training/heldout.py
"""

import argparse
import json
import os
import random
import sys

from chorale_training import export, tasks


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="models/family/heldout")
    parser.add_argument("--count", type=int, default=512, help="items of a task")
    flags = parser.parse_args(arguments)
    os.makedirs(flags.out, exist_ok=True)
    for name in tasks.NAMES:
        items = tasks.held_out_items(name, flags.count, random.Random(f"held out {name}"))
        lines = "".join(json.dumps(item.to_json()) + "\n" for item in items)
        export.write_text(os.path.join(flags.out, f"{name}.jsonl"), lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
