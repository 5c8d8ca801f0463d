"""The model card of a pretrained model: README.md, metrics.jsonl and the loss curve as SVG."""

import json
import math
import os
import shlex

from chorale_training import export

_WIDTH, _HEIGHT, _MARGIN = 640, 320, 48


def save(folder, flags, model, facts, lines):
    """`lines`: the records of metrics.jsonl. `facts`: what prepare_data counted in the corpus."""
    export.write_text(os.path.join(folder, "README.md"), _readme(flags, model, facts, lines))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    export.write_text(os.path.join(folder, "metrics.jsonl"), text)
    export.write_text(os.path.join(folder, "loss.svg"), loss_svg(lines))


def _command(flags):
    shown = [f"--{name.replace('_', '-')} {shlex.quote(str(value))}"
             for name, value in flags.items()
             if value is not None and name not in ("corpus", "out", "work")]
    return " ".join(["python3 training/pretrain.py --corpus CORPUS", *shown])


def _readme(flags, model, facts, lines):
    config, last = model.config, lines[-1]
    parameters = sum(p.numel() for p in model.parameters())
    tokens_per_byte = facts["held_out_tokens"] / facts["held_out_bytes"]
    bits = last["held_out_loss"] / math.log(2)
    is_on_gpu = next(model.parameters()).is_cuda
    machine = "One GPU" if is_on_gpu else f"A CPU, threads: {flags['threads']}"
    rows = "\n".join(
        f"| {line['minutes']:.0f} | {line['tokens'] / 1e6:.2f} M | {line['train_loss']:.3f} | "
        f"{line['held_out_loss']:.3f} | {line['held_out_loss'] / math.log(2):.3f} | "
        f"{math.exp(line['held_out_loss']):.1f} |"
        for line in _thinned(lines)
    )
    return f"""# models/base

A small base language model of Python code, trained from scratch by `training/pretrain.py`, so that
a fresh machine has real weights to serve. It completes Python-like text; it does not follow
instructions, and what it writes need not be right.

| | |
|---|---|
| shape | Qwen2ForCausalLM: hidden {config.hidden_size}, {config.num_hidden_layers} layers, \
{config.num_attention_heads} heads over {config.num_key_value_heads} key heads of \
{config.head_dim}, ffn {config.intermediate_size}, tied embeddings |
| parameters | {parameters:,}, stored as f16 |
| vocabulary | {config.vocab_size:,} pieces, byte-level BPE trained on the same corpus |
| context | positions up to {config.max_position_embeddings}; trained on windows of \
{flags['window']}, at the end {flags['long_window']} |
| training | {last['tokens']:,} tokens in {last['step']:,} steps, {last['minutes']:.0f} minutes \
({last['tokens'] / last['minutes'] / 60:,.0f} tokens/s) |
| held out | loss {last['held_out_loss']:.3f} nats a token, {bits:.3f} bits a token, \
{bits * tokens_per_byte:.3f} bits a byte, perplexity {math.exp(last['held_out_loss']):.2f} |

**Corpus.** {facts['corpus']}: Python source of Debian 12 packages (the standard library, Django,
Flask, Jinja2, NetworkX, pandas, Requests, SciPy, scikit-learn, SQLAlchemy, SymPy, Tornado, Twisted,
Werkzeug). {facts['training_files']:,} files, {facts['training_bytes']:,} bytes and
{facts['training_tokens']:,} tokens to train on; {facts['held_out_files']} files,
{facts['held_out_tokens']:,} tokens held out by a hash of the file name.

**Licence.** The corpus is under the PSF, BSD, MIT and Apache-2.0 licences of its packages. The
weights were made for this repository and come with it.

**Command.** {machine}; bf16 autocast over f32 weights:

    {_command(flags)}

![loss](loss.svg)

| minutes | tokens | training loss | held-out loss | bits a token | perplexity |
|---|---|---|---|---|---|
{rows}

Until the last line the held-out loss is over the first part of the held-out files, then over all of
them. `metrics.jsonl` has every point, `golden.json` the ids and logits that a right implementation
computes.
"""


def _thinned(lines, count_max=20):
    if len(lines) <= count_max:
        return lines
    step = (len(lines) - 1) / (count_max - 1)
    return [lines[round(i * step)] for i in range(count_max)]


def loss_svg(lines):
    """Training and held-out loss over tokens."""
    tokens_max = max(line["tokens"] for line in lines)
    losses = [line[key] for line in lines for key in ("train_loss", "held_out_loss")]
    low, high = math.floor(min(losses)), math.ceil(max(losses))

    def at(tokens, loss):
        x = _MARGIN + (_WIDTH - 2 * _MARGIN) * tokens / tokens_max
        y = _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * (loss - low) / (high - low)
        return x, y

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
             'font-family="sans-serif" font-size="11">',
             f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>']
    for loss in range(low, high + 1):
        x, y = at(0, loss)
        parts.append(f'<path d="M{x} {y:.1f}H{_WIDTH - _MARGIN}" stroke="#ddd"/>'
                     f'<text x="{x - 6}" y="{y + 4:.1f}" text-anchor="end">{loss}</text>')
    for i in range(5):
        x, y = at(tokens_max * i / 4, low)
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">'
                     f"{tokens_max * i / 4e6:.1f} M</text>")
    curves = (("train_loss", "#888", "training"), ("held_out_loss", "#06c", "held out"))
    for i, (key, colour, label) in enumerate(curves):
        points = " ".join("%.1f,%.1f" % at(line["tokens"], line[key]) for line in lines)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" '
                     f'stroke-width="2"/><text x="{_WIDTH - _MARGIN}" y="{24 + 14 * i}" '
                     f'fill="{colour}" text-anchor="end">{label}</text>')
    parts.append(f'<text x="{_MARGIN}" y="24">loss, nats a token, over training tokens</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
