#!/usr/bin/env python3
"""Trains one module of one task on the family's base by one of the recipes, and scores it.

    python3 training/finetune.py --recipe icarus --task math --out build/math-icarus
    python3 training/finetune.py --recipe sun --form full --task code --out build/code-sun-full

Writes Hugging Face's files (full weights) or PEFT's (adapter), and training.json with the figures.
"""

import argparse
import dataclasses
import sys

import torch

from chorale_training import modes, recipes, tasks


def parse_flags(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--recipe", required=True, choices=("full", "lora", "prefillshare", "sun", "icarus"))
    add("--form", choices=("full", "adapter"), help="of prefillshare and sun; else adapter")
    add("--task", required=True, choices=tasks.NAMES)
    add("--base", default="models/family/base", help="the family's base")
    add("--out", required=True, help="folder to write")
    add("--held-out", default="models/family/heldout", help="folder of the items to score")
    add("--steps", type=int, help="optimizer steps (default: the recipe's)")
    add("--batch", type=int, default=16, help="items of a step")
    add("--lr", type=float, help="peak learning rate of AdamW (default: the recipe's)")
    add("--rank", type=int, help="of the adapter (default: the recipe's)")
    add("--seed", type=int, default=1)
    add("--items", type=int, default=512, help="held-out items to score")
    add("--threads", type=int, default=1)
    return parser.parse_args(arguments)


def main(arguments=None):
    flags = parse_flags(arguments)
    torch.set_num_threads(flags.threads)
    kind = recipes.kind_for(recipes.kind_of(flags.recipe, flags.form), flags.task)
    given = {n: getattr(flags, n) for n in ("steps", "lr", "rank") if getattr(flags, n) is not None}
    kind = dataclasses.replace(kind, **given)
    base, tokenizer = recipes.load_base(flags.base)
    _, figures = recipes.train(kind, flags.task, base, tokenizer, flags.batch, flags.seed,
                               lambda line: print(line, flush=True), flags.out)
    items = tasks.load_items(f"{flags.held_out}/{flags.task}.jsonl")[: flags.items]
    module = recipes.load_module(flags.out, base)
    trio = modes.trio_of(kind.mode, base, module)
    figures["accuracy"], _ = recipes.accuracy(flags.task, trio, items, tokenizer)
    if flags.recipe == "full":
        trio = modes.plain_sharing(base, module)
        figures["plain_sharing"], _ = recipes.accuracy(flags.task, trio, items, tokenizer)
        trio = modes.trio_of("standard", base, base)
        figures["base"], _ = recipes.accuracy(flags.task, trio, items, tokenizer)
    recipes.write_figures(flags.out, figures)
    print({k: v for k, v in figures.items() if k != "kind"}, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
