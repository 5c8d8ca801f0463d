"""The card of the family's base: README.md, metrics.jsonl and the loss curve."""

import json
import os

from chorale_training import card, export


def save(folder, flags, model, corpus_tokens, lines):
    """`lines`: the records of metrics.jsonl."""
    config, last = model.config, lines[-1]
    parameters = sum(p.numel() for p in model.parameters())
    rows = "".join(f"| {line['minutes']:.0f} | {line['tokens'] / 1e6:.1f} M | "
                   f"{line['train_loss']:.3f} | {line['held_out_loss']:.3f} |\n" for line in lines)
    text = f"""# models/family/base

The base of the family: {parameters:,} parameters (Qwen2ForCausalLM, hidden {config.hidden_size},
{config.num_hidden_layers} layers, {config.num_attention_heads} heads over \
{config.num_key_value_heads} key heads, ffn {config.intermediate_size}, tied embeddings, \
{config.vocab_size:,} pieces), stored as f16.

Made by `training/family_base.py --corpus CORPUS --minutes {flags['minutes']:g} \
--ranks {flags['ranks']} --seed {flags['seed']}`:
{last['tokens'] / 1e6:.1f} M tokens, {last['step']:,} steps, {last['minutes']:.0f} minutes on \
{flags['ranks']} processes of one thread. Data: {1 - flags['corpus_share']:.0%} of the windows are
synthetic skills and dialects (`training/chorale_training/mixture.py`), the rest Python source of
Debian 12 packages ({corpus_tokens / 1e6:.1f} M tokens; PSF, BSD, MIT, Apache-2.0). The loss counts
tokens of prompts less; held out means batches that training does not draw, in windows of
{flags['window']}. In the last {flags['long_share']:.0%} of the time the windows are of \
{flags['long_window']:,}, which is new to the model: the training loss rises there.

![loss](loss.svg)

| minutes | tokens | training loss | held-out loss |
|---|---|---|---|
{rows}"""
    export.write_text(os.path.join(folder, "README.md"), text)
    export.write_text(os.path.join(folder, "metrics.jsonl"),
                      "".join(json.dumps(line) + "\n" for line in lines))
    export.write_text(os.path.join(folder, "loss.svg"), card.loss_svg(lines))
