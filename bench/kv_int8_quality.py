#!/usr/bin/env python3
"""Scores the models of the family with exact K/V and with K/V in 8 bits.

    python3 bench/kv_int8_quality.py --program build/dev/bin/kv_int8_quality [--json FILE]

Prints a line a model: accuracy with exact K/V and with K/V in 8 bits, share of equal outputs, and
share of equal next tokens after the same text. --json writes them as bench/results has them.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "training"))
from chorale_training import tasks  # noqa: E402


def parse_flags(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--program", default="build/dev/bin/kv_int8_quality", help="the built kv_int8_quality")
    add("--outputs", help="what the program printed before, in place of running it")
    add("--models", default="models/family", help="folder of chorale.yaml and heldout/")
    add("--items", type=int, default=128, help="held-out items of a task")
    add("--machine", default="", help="words for the results")
    add("--json", help="file of results")
    return parser.parse_args(arguments)


def records(flags):
    """The objects that the program prints, as they come."""
    if flags.outputs:
        with open(flags.outputs, encoding="utf-8") as lines:
            yield from map(json.loads, lines)
        return
    command = [flags.program, "--models", flags.models, "--items", str(flags.items)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        yield from map(json.loads, program.stdout)
    if program.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit status {program.returncode}")


def measure(flags, record):
    """{"exact", "int8", "outputs", "tokens"}, shares in [0, 1], and the count of items."""
    items = tasks.load_items(os.path.join(flags.models, "heldout", f"{record['task']}.jsonl"))
    items = items[: len(record["exact"])]
    score = tasks.module(record["task"]).score_all
    shares = {side: sum(score(items, record[side])) / len(items) for side in ("exact", "int8")}
    equal = sum(a == b for a, b in zip(record["exact"], record["int8"]))
    shares["outputs"] = equal / len(items)
    shares["tokens"] = record["tokens_equal"] / record["tokens"]
    return shares, len(items)


def results_of(name, shares, items, flags):
    def entry(metric, value, peer, peer_value):
        return {"metric": f"kv int8, {name}, {items} items: {metric}", "value": round(value, 4),
                "unit": "share", "peer": peer, "peer_value": peer_value,
                "ratio": round(value / peer_value, 4) if peer_value else None, "limit": None,
                "command": f"bench/kv_int8_quality.py --items {items}", "machine": flags.machine,
                "date": datetime.date.today().isoformat(), "commit": commit()}
    return [
        entry("accuracy", shares["int8"], "exact K/V", round(shares["exact"], 4)),
        entry("equal outputs", shares["outputs"], None, None),
        entry("equal next tokens", shares["tokens"], None, None),
    ]


def commit():
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
                          check=False)
    return done.stdout.strip()


def main(arguments=None):
    flags = parse_flags(arguments)
    sides = ("exact", "int8", "outputs", "tokens")
    print(f"{'model':26}" + "".join(f"{side:>10}" for side in sides))
    results = []
    for record in records(flags):
        shares, items = measure(flags, record)
        print(f"{record['model']:26}" + "".join(f"{100 * shares[s]:8.2f} %" for s in sides),
              flush=True)
        results += results_of(record["model"], shares, items, flags)
    if flags.json:
        with open(flags.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
