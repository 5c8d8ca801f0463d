"""The family's table: accuracy of every task by every kind of module, from training.json files."""

import json
import os

from chorale_training import export, recipes, tasks

_COLUMNS = (("base", "base alone"), ("full", "full fine-tune"), ("lora", "LoRA"),
            ("prefillshare-full", "PrefillShare, full"), ("prefillshare", "PrefillShare, adapter"),
            ("sun-full", "SUN, full"), ("sun", "SUN, adapter"), ("icarus", "ICaRus"),
            ("plain_sharing", "plain sharing"))


_README = """# models/family

Four tasks over one base, each served in every mode. `chorale.yaml` names the modules and models; a
task's short name is its icarus model. `base/README.md` is the card of the base (data, time,
loss curve), `results.json` has settings, loss and time of every module, `modes_golden.json` ids and
logits of one model of each mode and form, `heldout/` the items that no training has seen.

{table}

Adapters of every task and kind ship, full weights of the task `code` only; the others are made
again by `training/finetune.py`. Everything here comes from
`python3 training/family.py --corpus CORPUS.jsonl.xz`; `training/README.md` explains the recipes.

{tasks}
"""


def _lines_of_tasks(folder):
    """An example of every task."""
    for task in tasks.NAMES:
        path = os.path.join(folder, "heldout", f"{task}.jsonl")
        item = tasks.load_items(path)[0]
        text = (item.prompt + item.answer).replace("\n", "\n    ")
        yield f"**{task}** ({tasks.module(task).__doc__.splitlines()[0]})\n\n    {text}\n"


def collect(work):
    """task -> kind -> contents of training.json, of the modules that are done."""
    records = {}
    for task in tasks.NAMES:
        records[task] = {}
        for kind in recipes.KINDS:
            path = os.path.join(work, task, kind, "training.json")
            if os.path.exists(path):
                with open(path, encoding="utf-8") as file:
                    records[task][kind] = json.load(file)
    return records


def _shares(record):
    """column -> accuracy in [0, 1] of one task."""
    shares = {kind: figures["accuracy"] for kind, figures in record.items()}
    for key in ("base", "plain_sharing"):
        if key in record.get("full", {}):
            shares[key] = record["full"][key]
    return shares


def table(records):
    """Markdown: a line a way to serve, a column a task, the mean, and the mean less full's."""
    shares = {task: _shares(record) for task, record in records.items()}
    lines = [f"| accuracy, % | {' | '.join(tasks.NAMES)} | mean | mean − full |",
             "|---" * (len(tasks.NAMES) + 3) + "|"]
    full = [shares[task].get("full") for task in tasks.NAMES]
    for column, label in _COLUMNS:
        row = [shares[task].get(column) for task in tasks.NAMES]
        cells = ["–" if share is None else f"{100 * share:.1f}" for share in row]
        mean = difference = "–"
        if None not in row:
            mean = f"{100 * sum(row) / len(row):.1f}"
            if None not in full:
                difference = f"{100 * (sum(row) - sum(full)) / len(row):+.1f}"
        lines.append(f"| {label} | {' | '.join(cells)} | {mean} | {difference} |")
    return "\n".join(lines)


def write(folder, records):
    """results.json: every module's settings, time, loss and accuracy; README.md: card and table."""
    export.write_text(os.path.join(folder, "results.json"), json.dumps(records, indent=1) + "\n")
    export.write_text(os.path.join(folder, "README.md"), _README.format(
        table=table(records), tasks="\n".join(_lines_of_tasks(folder))))
