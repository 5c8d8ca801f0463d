"""What training runs share: the optimizer, the learning rate's course, the checkpoint."""

import dataclasses
import math
import os

import torch


def adamw(model, learning_rate, weight_decay):
    """AdamW over the model's parameters; matrices decay, the embedding and vectors do not."""
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.dim() == 2 and "embed_tokens" not in name
        (decayed if is_matrix else plain).append(parameter)
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay},
         {"params": plain, "weight_decay": 0.0}],
        lr=learning_rate, betas=(0.9, 0.95), eps=1e-8,
    )


def course(step, share_done, warmup_steps, final_share):
    """The learning rate over its peak: linear warm-up by steps, then a cosine over the budget."""
    cosine = final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * share_done))
    return min(1, (step + 1) / warmup_steps) * cosine


def save_checkpoint(path, model, optimizer, progress):
    """Replaces the file at `path` at once, or not at all."""
    unfinished = path + ".unfinished"
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                "progress": progress, "config": dataclasses.asdict(model.config)}, unfinished)
    os.replace(unfinished, path)


def load_checkpoint(path, model, optimizer, device="cpu"):
    """Fills model and optimizer; the progress. ValueError for a model of another shape."""
    saved = torch.load(path, map_location=device)
    if saved["config"] != dataclasses.asdict(model.config):
        raise ValueError(f"{path} is of another shape, {saved['config']}; "
                         "remove it or name another --work")
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return saved["progress"]
