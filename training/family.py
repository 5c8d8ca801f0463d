#!/usr/bin/env python3
"""Makes the whole family: base, held-out items, every module, scores, table, golden values.

    nice -n 19 python3 training/family.py --corpus CORPUS.jsonl.xz

What exists is not made again: the base, and every module whose training.json is in --work. The
modules that ship are copied to --out; the others stay in --work.
"""

import argparse
import json
import os
import shutil
import sys
import time

import torch
from torch import multiprocessing

import family_base
import heldout
import modes_golden
from chorale_training import family, modes, recipes, report, tasks

# The order of training: what every task ships first.
_ORDER = ("full", "sun", "icarus", "prefillshare", "lora", "sun-full", "prefillshare-full")


def parse_flags(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--corpus", help="jsonl or jsonl.xz of {package, path, text}; needed to make the base")
    add("--minutes", type=float, default=50, help="training time of the base")
    add("--workers", type=int, default=2, help="processes of one thread")
    add("--tasks", default=",".join(tasks.NAMES), help="by comma")
    add("--kinds", default=",".join(_ORDER), help="by comma, in the order of training")
    add("--batch", type=int, default=16, help="items of a step")
    add("--seed", type=int, default=1)
    add("--items", type=int, default=512, help="held-out items to score")
    add("--out", default="models/family", help="folder that ships")
    add("--work", default="build/training/family", help="folder of every module")
    return parser.parse_args(arguments)


def make_base(flags):
    folder = os.path.join(flags.out, "base")
    if os.path.exists(os.path.join(folder, "model.safetensors")):
        return
    if not flags.corpus:
        raise SystemExit(f"--corpus: {folder} holds no base, and a corpus is needed to make it")
    family_base.main(["--corpus", flags.corpus, "--out", folder, "--minutes", str(flags.minutes),
                      "--ranks", str(flags.workers), "--seed", str(flags.seed)])


def make_module(job):
    """Trains and scores one module, unless its figures exist. job: (flags, task, kind name)."""
    flags, task, name = job
    folder = os.path.join(flags.work, task, name)
    if os.path.exists(os.path.join(folder, "training.json")):
        return
    torch.set_num_threads(1)
    kind = recipes.kind_for(name, task)
    base, tokenizer = recipes.load_base(os.path.join(flags.out, "base"))
    show = lambda line: print(f"{time.strftime('%H:%M:%S')} {task}/{name}: {line}", flush=True)
    _, figures = recipes.train(kind, task, base, tokenizer, flags.batch, flags.seed, show, folder)
    items = load_items(flags, task)
    module = recipes.load_module(folder, base)
    figures["accuracy"], _ = recipes.accuracy(
        task, modes.trio_of(kind.mode, base, module), items, tokenizer)
    if name == "full":
        figures["plain_sharing"], _ = recipes.accuracy(
            task, modes.plain_sharing(base, module), items, tokenizer)
        figures["base"], _ = recipes.accuracy(
            task, modes.trio_of("standard", base, base), items, tokenizer)
    recipes.write_figures(folder, figures)
    shown = {k: round(figures[k], 4) for k in ("accuracy", "plain_sharing", "base", "seconds")
             if k in figures}
    show(f"done {json.dumps(shown)}")


def load_items(flags, task):
    path = os.path.join(flags.out, "heldout", f"{task}.jsonl")
    return tasks.load_items(path)[: flags.items]


def ship(flags):
    """Copies what ships, without the figures, and writes chorale.yaml."""
    for task in tasks.NAMES:
        for kind in recipes.KINDS:
            source = os.path.join(flags.work, task, kind)
            is_done = os.path.exists(os.path.join(source, "training.json"))
            if is_done and family.ships(task, kind):
                shutil.copytree(source, os.path.join(flags.out, task, kind), dirs_exist_ok=True,
                                ignore=shutil.ignore_patterns("training.json"))
    family.write_config(flags.out)


def main(arguments=None):
    flags = parse_flags(arguments)
    begin = time.monotonic()
    make_base(flags)
    if not os.path.exists(os.path.join(flags.out, "heldout")):
        heldout.main(["--out", os.path.join(flags.out, "heldout")])
    jobs = [(flags, task, kind) for kind in flags.kinds.split(",")
            for task in flags.tasks.split(",")]
    with multiprocessing.get_context("spawn").Pool(flags.workers, maxtasksperchild=1) as pool:
        for done, _ in enumerate(pool.imap_unordered(make_module, jobs), 1):
            print(f"{done}/{len(jobs)} modules, {(time.monotonic() - begin) / 60:.1f} min",
                  flush=True)
            ship(flags)
    records = report.collect(flags.work)
    print(report.table(records), flush=True)
    report.write(flags.out, records)
    return modes_golden.main(["--family", flags.out])


if __name__ == "__main__":
    sys.exit(main())
