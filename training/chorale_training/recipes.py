"""The recipes: which mode a module is trained for, in which form, with which settings.

A kind names a recipe and form; it is also the folder of the module under its task.
"""

import dataclasses
import json
import os
import random
import time

import torch

from chorale_training import adapter as adapters
from chorale_training import export, modes, qwen2, tasks, tokenizer_bpe

ANSWER_TOKENS_MAX = 56


@dataclasses.dataclass(frozen=True)
class Kind:
    recipe: str
    form: str  # "full": weights of its own; "adapter": base + LoRA
    mode: str
    lr: float
    steps: int
    rank: int = 16
    targets: tuple = tuple(adapters.TARGETS)


KINDS = {
    "full": Kind("full", "full", "standard", 1e-3, 300),
    "lora": Kind("lora", "adapter", "standard", 5e-3, 300),
    "prefillshare-full": Kind("prefillshare", "full", "prefillshare", 1e-3, 300),
    "prefillshare": Kind("prefillshare", "adapter", "prefillshare", 5e-3, 300),
    "sun-full": Kind("sun", "full", "sun", 1e-3, 400),
    "sun": Kind("sun", "adapter", "sun", 5e-3, 400, rank=32),
    "icarus": Kind("icarus", "adapter", "icarus", 5e-3, 300, targets=adapters.READER_TARGETS),
}

# Times as many steps for tasks where every digit must be right.
_STEPS_TIMES = {"math": 2}


def kind_for(name, task):
    """KINDS[name] with the steps that the task needs."""
    kind = KINDS[name]
    return dataclasses.replace(kind, steps=kind.steps * _STEPS_TIMES.get(task, 1))


def kind_of(recipe, form):
    """The kind of a recipe and a form (None: the recipe's only or first adapter form)."""
    for name, kind in KINDS.items():
        if kind.recipe == recipe and form in (None, kind.form):
            if form is None and len([k for k in KINDS.values() if k.recipe == recipe]) > 1:
                if kind.form != "adapter":
                    continue
            return name
    raise ValueError(f"recipe {recipe!r} has no form {form!r}; known are "
                     + ", ".join(f"{k.recipe}/{k.form}" for k in KINDS.values()))


def load_base(folder):
    """(frozen base Module, tokenizer)."""
    model, tokenizer = export.load(folder)
    model.requires_grad_(False)
    return modes.Module(model), tokenizer


def copy_of(model):
    """A trainable copy of a Qwen2."""
    copy = qwen2.Qwen2(model.config)
    copy.load_state_dict(model.state_dict())
    return copy


def new_module(kind, base):
    """M before training: equal to the base in what it computes."""
    if kind.form == "full":
        return modes.Module(copy_of(base.model))
    adapter = adapters.Adapter(base.model, kind.rank, 2 * kind.rank, kind.targets)
    return modes.Module(base.model, adapter)


def load_module(folder, base):
    """M as stored: a model folder, or an adapter on the base."""
    if os.path.exists(os.path.join(folder, "adapter_config.json")):
        return modes.Module(base.model, adapters.load(folder, base.model).requires_grad_(False))
    model, _ = export.load(folder)
    model.requires_grad_(False)
    return modes.Module(model)


def save_module(folder, module, tokenizer):
    """Hugging Face's files of full weights, PEFT's of an adapter."""
    if module.adapter is None:
        export.save(folder, module.model, tokenizer)
    else:
        module.adapter.save(folder)


class Loader:
    """Batches of a task's training part; batch(step) is a pure function of seed and step."""

    def __init__(self, task, tokenizer, rows, seed):
        self._task, self._tokenizer, self._rows, self._seed = task, tokenizer, rows, seed
        self._end = tokenizer.id_of(tokenizer_bpe.END_OF_TEXT)

    def batch(self, step):
        rng, generate = random.Random(f"{self._task} {self._seed} {step}"), tasks.module(
            self._task).generate
        items = [generate(rng) for _ in range(self._rows)]
        encode = self._tokenizer.encode
        return modes.collate([(encode(i.prompt), encode(i.answer)) for i in items], self._end)


def learning_rate(kind, step, steps):
    """Linear warm-up over 5 % of the steps, then a line down to 2 %."""
    warmup = max(1, steps // 20)
    down = 1 - 0.98 * max(0, step - warmup) / max(1, steps - warmup)
    return kind.lr * min(1, (step + 1) / warmup) * down


def train(kind, task, base, tokenizer, rows, seed, progress=print, out=None):
    """(trained Module, figures). `out`: a folder to save to when it ends."""
    torch.manual_seed(seed)
    module = new_module(kind, base)
    trio = modes.trio_of(kind.mode, base, module)
    parameters = [p for p in module.parameters() if p.requires_grad]
    decay = 0.01 if kind.form == "full" else 0.0
    optimizer = torch.optim.AdamW(parameters, lr=kind.lr, betas=(0.9, 0.98), weight_decay=decay)
    loader, losses, begin = Loader(task, tokenizer, rows, seed), [], time.monotonic()
    for step in range(kind.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(kind, step, kind.steps)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = modes.loss(trio, loader.batch(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step % 50 == 49:
            progress(f"  step {step + 1}/{kind.steps}  loss {sum(losses[-50:]) / 50:.4f}  "
                     f"{time.monotonic() - begin:.0f} s")
    figures = {"kind": dataclasses.asdict(kind), "task": task, "rows": rows, "seed": seed,
               "seconds": round(time.monotonic() - begin, 1),
               "loss": round(sum(losses[-20:]) / len(losses[-20:]), 5)}
    if out:
        save_module(out, module, tokenizer)
    return module, figures


def outputs_of(trio, items, tokenizer, rows=128):
    """The text that a model writes after each item's prompt, greedily, in float32."""
    end, texts = tokenizer.id_of(tokenizer_bpe.END_OF_TEXT), []
    for begin in range(0, len(items), rows):
        prompts = [tokenizer.encode(item.prompt) for item in items[begin : begin + rows]]
        ids = modes.greedy(trio, prompts, ANSWER_TOKENS_MAX, end)
        texts += [tokenizer.decode(row) for row in ids]
    return texts


def accuracy(task, trio, items, tokenizer):
    """(share of items that score, outputs)."""
    outputs = outputs_of(trio, items, tokenizer)
    return sum(tasks.module(task).score_all(items, outputs)) / len(items), outputs


def write_figures(folder, figures):
    os.makedirs(folder, exist_ok=True)
    export.write_text(os.path.join(folder, "training.json"), json.dumps(figures, indent=1) + "\n")
