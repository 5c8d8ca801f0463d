"""The family as it ships: chorale.yaml, which names modules and models, and the models in torch.

    models/family/base/                the base and the tokenizer of all
    models/family/<task>/<kind>/       a module; kinds are those of recipes.KINDS
    models/family/heldout/<task>.jsonl

The model called like a task is its icarus model; the others are <task>-<kind>.
"""

import dataclasses
import os
import re

from chorale_training import export, modes, recipes, tasks

FULL_TASK = "code"  # full weights ship of this task only


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model of chorale.yaml: its name, mode and the folder of its module."""

    name: str
    mode: str
    folder: str

    @property
    def task(self):
        return self.folder.split("/")[0]


def ships(task, kind):
    return recipes.KINDS[kind].form == "adapter" or task == FULL_TASK


def write_config(folder):
    """chorale.yaml of the modules that are in `folder`; the names of its models."""
    modules, models = [], []
    for task in tasks.NAMES:
        for kind, recipe in recipes.KINDS.items():
            if not os.path.isdir(os.path.join(folder, task, kind)):
                continue
            what = "weights" if recipe.form == "full" else "adapter"
            name = task if kind == "icarus" else f"{task}-{kind}"
            modules.append(f"  - {{name: {task}-{kind}, {what}: {task}/{kind}}}\n")
            model = f"mode: {recipe.mode}, module: {task}-{kind}"
            models.append(f"  - {{name: {name}, {model}}}\n")
            if kind == "sun":  # QSUN: the same prompts, read by the base in four bits
                models.append(f"  - {{name: {task}-qsun, {model}, decoder: base-int4}}\n")
    export.write_text(os.path.join(folder, "chorale.yaml"), "".join((
        "version: 1\n", "base: base  # its tokenizer serves every model\n",
        "modules:\n", "  - {name: base-int4, quantize: int4}\n", *modules,
        "models:\n", "  - {name: base}\n", *models)))


def read_config(folder):
    """name -> Entry of the chorale.yaml that write_config wrote, but for the base.

    A qsun model's Entry is that of its sun model: torch decodes with the base as it is."""
    modules, models = {}, {}
    path = os.path.join(folder, "chorale.yaml")
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            found = re.fullmatch(r"\s+- \{(.*)\}\s*", line)
            if not found:
                continue
            fields = dict(part.split(": ") for part in found[1].split(", "))
            if "module" in fields:
                if fields["module"] not in modules:
                    raise ValueError(f"{path}:{number}: module {fields['module']!r} is not named "
                                     "under modules")
                models[fields["name"]] = Entry(fields["name"], fields["mode"],
                                               modules[fields["module"]])
            elif "adapter" in fields or "weights" in fields:
                modules[fields["name"]] = fields.get("adapter") or fields["weights"]
    return models


def trio_of(folder, entry, base):
    """The Trio of a model of the family, from its files."""
    module = recipes.load_module(os.path.join(folder, entry.folder), base)
    return modes.trio_of(entry.mode, base, module)
