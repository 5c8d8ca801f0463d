#!/usr/bin/env python3
"""Trains a small Qwen2-shaped base model on a text corpus, tokenizer included, in one command.

    nice -n 19 python3 training/pretrain.py --corpus CORPUS.jsonl.xz --minutes 75

Stops after --minutes of training (or --tokens), and the learning rate follows the same measure. The
run can be interrupted at any time: the same command goes on from the last checkpoint in --work,
and after the end it writes the model folder anew. Each checkpoint also writes the folder --out,
ready to be served.
"""

import argparse
import json
import math
import os
import signal
import sys
import time

import numpy as np
import torch

from chorale_training import card, data, export, golden, optimisation, qwen2, tokenizer_bpe

_EVAL_TOKENS = 32_768  # of the held-out files, at each checkpoint; at the end all of them


def parse_flags(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--corpus", required=True, help="jsonl or jsonl.xz of {package, path, text}")
    add("--out", default="models/base", help="the model folder to write")
    add("--work", default="build/training", help="folder of checkpoint and tokens")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="training time, evaluation not counted")
    length.add_argument("--tokens", type=float, help="tokens to train on")
    add("--vocab-size", type=int, default=6400)
    add("--hidden-size", type=int, default=256)
    add("--intermediate-size", type=int, default=704)
    add("--layers", type=int, default=6)
    add("--heads", type=int, default=8)
    add("--kv-heads", type=int, default=2)
    add("--max-position", type=int, default=4096)
    add("--window", type=int, default=512, help="tokens of a training window")
    add("--long-window", type=int, default=2048, help="tokens of a window in the last part")
    add("--long-share", type=float, default=0.15, help="share of the run with long windows")
    add("--batch-tokens", type=int, default=4096, help="tokens of an optimizer step")
    add("--micro-tokens", type=int, default=2048, help="tokens of one forward and backward")
    add("--lr", type=float, default=2e-3, help="peak learning rate of AdamW")
    add("--final-lr-share", type=float, default=0.02, help="learning rate at the end over --lr")
    add("--warmup-steps", type=int, default=100)
    add("--weight-decay", type=float, default=0.1, help="of matrices, not of the embedding")
    add("--held-out-percent", type=float, default=1.0, help="share of the files kept for judging")
    add("--checkpoint-minutes", type=float, default=5)
    add("--threads", type=int, default=1)
    add("--seed", type=int, default=1)
    flags = parser.parse_args(arguments)
    for name in ("window", "long_window"):
        if flags.batch_tokens % getattr(flags, name):
            parser.error(f"--batch-tokens {flags.batch_tokens} is not a multiple of "
                         f"--{name.replace('_', '-')} {getattr(flags, name)}")
    return flags


def prepare_data(flags):
    """(tokenizer, training tokens, held-out tokens, corpus figures), kept in --work for later."""
    tokens_path = os.path.join(flags.work, "tokens.npz")
    tokenizer_path = os.path.join(flags.work, "tokenizer.json")
    facts_path = os.path.join(flags.work, "corpus.json")
    if all(os.path.exists(p) for p in (tokens_path, tokenizer_path, facts_path)):
        with np.load(tokens_path) as saved, open(facts_path, encoding="utf-8") as facts:
            return (tokenizer_bpe.load(tokenizer_path), saved["training"], saved["held_out"],
                    json.load(facts))
    print("reading", flags.corpus, flush=True)
    training, held_out = data.split(data.read_corpus(flags.corpus), flags.held_out_percent)

    def show(what):
        return lambda done, total: print(f"\r{what}: {done}/{total}", end="", flush=True)

    tokenizer = tokenizer_bpe.train((t for _, t in training), flags.vocab_size, show("merges"))
    training_tokens = data.tokenize(training, tokenizer, show("tokenized"))
    held_out_tokens = data.tokenize(held_out, tokenizer)
    facts = {
        "corpus": os.path.basename(flags.corpus),
        "training_files": len(training), "held_out_files": len(held_out),
        "training_tokens": len(training_tokens), "held_out_tokens": len(held_out_tokens),
        "training_bytes": sum(len(t.encode()) for _, t in training),
        "held_out_bytes": sum(len(t.encode()) for _, t in held_out),
    }
    print("\n" + json.dumps(facts), flush=True)
    np.savez(tokens_path, training=training_tokens, held_out=held_out_tokens)
    export.write_text(facts_path, json.dumps(facts))
    export.write_text(tokenizer_path, tokenizer.to_text())
    return tokenizer, training_tokens, held_out_tokens, facts


class Run:
    """One training run. `progress`, the weights and the optimizer are all that a resume needs."""

    def __init__(self, flags):
        self.flags = flags
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.tokenizer, training, self.held_out, self.facts = prepare_data(flags)
        config = qwen2.Config(
            vocab_size=self.tokenizer.vocab_size, hidden_size=flags.hidden_size,
            intermediate_size=flags.intermediate_size, num_hidden_layers=flags.layers,
            num_attention_heads=flags.heads, num_key_value_heads=flags.kv_heads,
            max_position_embeddings=flags.max_position,
        )
        self.windows = {
            length: data.Windows(training, length, flags.seed)
            for length in (flags.window, flags.long_window)
        }
        torch.manual_seed(flags.seed)
        self.model = qwen2.Qwen2(config)
        self.model.init_weights()
        self.model.to(self.device)
        self.optimizer = optimisation.adamw(self.model, flags.lr, flags.weight_decay)
        self.progress = {"step": 0, "tokens": 0, "seconds": 0.0,
                         "windows": {str(length): 0 for length in self.windows}}
        self.checkpoint_path = os.path.join(flags.work, "checkpoint.pt")
        self.metrics_path = os.path.join(flags.work, "metrics.jsonl")

    def resume(self):
        """Goes on from the checkpoint; False when there is none."""
        if not os.path.exists(self.checkpoint_path):
            return False
        self.progress = optimisation.load_checkpoint(self.checkpoint_path, self.model,
                                                     self.optimizer, self.device)
        return True

    def save(self):
        optimisation.save_checkpoint(self.checkpoint_path, self.model, self.optimizer,
                                     self.progress)

    def share_done(self):
        """0 at the start, 1 when the budget is spent."""
        if self.flags.minutes:
            return min(1.0, self.progress["seconds"] / (60 * self.flags.minutes))
        return min(1.0, self.progress["tokens"] / self.flags.tokens)

    def learning_rate(self):
        """Linear warm-up by steps, then a cosine over the budget."""
        return self.flags.lr * optimisation.course(
            self.progress["step"], self.share_done(), self.flags.warmup_steps,
            self.flags.final_lr_share)

    def autocast(self):
        return torch.autocast(self.device, dtype=torch.bfloat16)

    def step(self):
        """One optimizer step; the mean loss in nats a token."""
        is_long = self.share_done() >= 1 - self.flags.long_share
        length = self.flags.long_window if is_long else self.flags.window
        count, key = self.flags.batch_tokens // length, str(length)
        batch = torch.from_numpy(self.windows[length].batch(self.progress["windows"][key], count))
        rows = max(1, self.flags.micro_tokens // length)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        total = 0.0
        for part in batch.to(self.device).split(rows):
            with self.autocast():
                loss = self.model.loss(part)
            share = len(part) / count
            (loss * share).backward()
            total += loss.item() * share
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress["step"] += 1
        self.progress["tokens"] += count * length
        self.progress["windows"][key] += count
        return total

    @torch.no_grad()
    def held_out_loss(self, tokens_max):
        """Mean loss in nats a token over the first held-out windows of --window tokens."""
        length = self.flags.window
        count = min(tokens_max, len(self.held_out) - 1) // length
        starts = np.arange(count) * length
        windows = np.stack([self.held_out[s : s + length + 1] for s in starts]).astype(np.int64)
        total = 0.0
        for part in torch.from_numpy(windows).to(self.device).split(4):
            with self.autocast():
                total += self.model.loss(part).item() * len(part)
        return total / count

    def report(self, train_loss, held_out_loss):
        """A line of metrics.jsonl, then the model folder."""
        line = {
            "step": self.progress["step"], "tokens": self.progress["tokens"],
            "minutes": round(self.progress["seconds"] / 60, 4),
            "train_loss": round(train_loss, 4), "held_out_loss": round(held_out_loss, 4),
            "learning_rate": round(self.learning_rate(), 7),
        }
        with open(self.metrics_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"held out: loss {held_out_loss:.4f}, {held_out_loss / math.log(2):.3f} bits/token, "
              f"perplexity {math.exp(held_out_loss):.2f}", flush=True)
        self.write()

    def write(self):
        """The model folder: weights, tokenizer, golden values and card."""
        with open(self.metrics_path, encoding="utf-8") as file:
            lines = [json.loads(text) for text in file]
        export.save(self.flags.out, self.model, self.tokenizer)
        golden.save(self.flags.out)
        card.save(self.flags.out, vars(self.flags), self.model, self.facts, lines)
        print("wrote", self.flags.out, flush=True)


def print_progress(run, loss, tokens_per_second):
    progress, done = run.progress, run.share_done()
    minutes_left = progress["seconds"] * (1 / max(done, 1e-9) - 1) / 60
    print(f"step {progress['step']}  {progress['tokens'] / 1e6:.2f} M tokens  loss {loss:.3f}  "
          f"lr {run.learning_rate():.2e}  {tokens_per_second:,.0f} tokens/s  {done:.1%}  "
          f"{minutes_left:.1f} min left", flush=True)


def train(run, stop):
    """Steps until the budget is spent or the list `stop` is no longer empty."""
    flags, progress = run.flags, run.progress
    losses, printed, checkpointed = [], progress["seconds"], progress["seconds"]
    # The first checkpoint comes early, so that there is a model folder to look at.
    checkpoint_seconds = min(60, 60 * flags.checkpoint_minutes)
    while run.share_done() < 1 and not stop:
        begin = time.monotonic()
        losses.append(run.step())
        step_seconds = time.monotonic() - begin
        progress["seconds"] += step_seconds
        if progress["seconds"] - printed >= 10:
            printed, recent = progress["seconds"], losses[-20:]
            print_progress(run, sum(recent) / len(recent), flags.batch_tokens / step_seconds)
        if progress["seconds"] - checkpointed >= checkpoint_seconds and run.share_done() < 1:
            checkpointed, checkpoint_seconds = progress["seconds"], 60 * flags.checkpoint_minutes
            run.save()
            run.report(sum(losses) / len(losses), run.held_out_loss(_EVAL_TOKENS))
            losses.clear()
    run.save()
    if losses and not stop:
        run.report(sum(losses) / len(losses), run.held_out_loss(len(run.held_out)))


def main(arguments=None):
    flags = parse_flags(arguments)
    os.makedirs(flags.work, exist_ok=True)
    torch.set_num_threads(flags.threads)
    run = Run(flags)
    print(json.dumps(vars(flags)), flush=True)
    parameters = sum(p.numel() for p in run.model.parameters())
    print(f"{parameters:,} parameters on {run.device}; resumed: {run.resume()}", flush=True)
    stop = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.append(True))
    if run.share_done() >= 1:
        run.write()
    else:
        train(run, stop)
    return 0 if run.share_done() >= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
