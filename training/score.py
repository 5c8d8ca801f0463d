#!/usr/bin/env python3
"""Scores the held-out items by models of the family, in torch and through a running server.

    python3 training/score.py --models math,code-sun
    python3 training/score.py --url http://127.0.0.1:8080

Prints a line a model: accuracy in torch, accuracy of the server, share of equal outputs. Outputs of
torch are kept in --cache until the model's files change. --differences shows where they part.
"""

import argparse
import hashlib
import json
import os
import sys
import urllib.error
import urllib.request
from concurrent import futures

import torch

from chorale_training import export, family, recipes, tasks


def parse_flags(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--models", help="names of chorale.yaml, by comma (default: all)")
    add("--url", help="a running server, such as http://127.0.0.1:8080")
    add("--key", help="bearer token for the server")
    add("--family", default="models/family", help="folder of the family")
    add("--items", type=int, default=512, help="held-out items of a task")
    add("--in-flight", type=int, default=16, help="requests at once")
    add("--cache", default="build/training/outputs", help="folder of torch's outputs")
    add("--no-torch", action="store_true", help="score the server only")
    add("--differences", type=int, default=0, help="differing outputs to print of each model")
    return parser.parse_args(arguments)


def digest_of(paths):
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def torch_outputs(flags, entry, items, base, tokenizer):
    """The outputs of a model in torch, from the cache if its files are the same."""
    folder = os.path.join(flags.family, entry.folder)
    paths = [os.path.join(folder, f) for f in sorted(os.listdir(folder))
             if f.endswith((".safetensors", "config.json"))]
    paths += [os.path.join(flags.family, "base/model.safetensors"),
              os.path.join(flags.family, "base/tokenizer.json"),
              os.path.join(flags.family, "heldout", f"{entry.task}.jsonl")]
    digest, path = digest_of(paths), os.path.join(flags.cache, f"{entry.name}.json")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            kept = json.load(file)
        if kept["digest"] == digest and len(kept["outputs"]) >= len(items):
            return kept["outputs"][: len(items)]
    outputs = recipes.outputs_of(family.trio_of(flags.family, entry, base), items, tokenizer)
    os.makedirs(flags.cache, exist_ok=True)
    export.write_text(path, json.dumps({"digest": digest, "outputs": outputs}))
    return outputs


def ask(flags, model, prompt):
    """The server's greedy text; RuntimeError with its words when it refuses."""
    body = {"model": model, "prompt": prompt, "temperature": 0,
            "max_tokens": recipes.ANSWER_TOKENS_MAX}
    headers = {"Content-Type": "application/json"}
    if flags.key:
        headers["Authorization"] = f"Bearer {flags.key}"
    request = urllib.request.Request(flags.url.rstrip("/") + "/v1/completions",
                                     json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return json.load(response)["choices"][0]["text"]
    except urllib.error.HTTPError as error:
        words = error.read().decode(errors="replace")[:300]
        raise RuntimeError(f"{flags.url}: model {model}: HTTP {error.code}: {words}") from error


def server_outputs(flags, model, items):
    with futures.ThreadPoolExecutor(flags.in_flight) as pool:
        return list(pool.map(lambda item: ask(flags, model, item.prompt), items))


def score_model(flags, entry, base, tokenizer):
    """{"model", "torch", "server", "equal"}, shares in [0, 1]; what was not asked for is absent."""
    path = os.path.join(flags.family, "heldout", f"{entry.task}.jsonl")
    items = tasks.load_items(path)[: flags.items]
    score, record, outputs = tasks.module(entry.task).score_all, {"model": entry.name}, {}
    if not flags.no_torch:
        outputs["torch"] = torch_outputs(flags, entry, items, base, tokenizer)
    if flags.url:
        outputs["server"] = server_outputs(flags, entry.name, items)
    for side, texts in outputs.items():
        record[side] = sum(score(items, texts)) / len(items)
    if len(outputs) == 2:
        unequal = [row for row in zip(items, *outputs.values()) if row[1] != row[2]]
        record["equal"] = 1 - len(unequal) / len(items)
        for item, left, right in unequal[: flags.differences]:
            print(f"--- {entry.name}\n{item.prompt}torch:  {left!r}\nserver: {right!r}")
    return record


def main(arguments=None):
    flags = parse_flags(arguments)
    torch.set_num_threads(1)
    known = family.read_config(flags.family)
    names = flags.models.split(",") if flags.models else list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"--models: {', '.join(unknown)} not in {flags.family}/chorale.yaml, which has "
              f"{', '.join(known)}", file=sys.stderr)
        return 2
    base, tokenizer = recipes.load_base(os.path.join(flags.family, "base"))
    print(f"{'model':26}" + "".join(f"{side:>9}" for side in ("torch", "server", "equal")))
    for name in names:
        record = score_model(flags, known[name], base, tokenizer)
        shares = (record.get(side) for side in ("torch", "server", "equal"))
        print(f"{name:26}" + "".join(
            f"{'' if s is None else format(100 * s, '.1f') + ' %':>9}" for s in shares), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
