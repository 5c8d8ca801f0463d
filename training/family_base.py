#!/usr/bin/env python3
"""Trains the family's base and its tokenizer: skills and dialects of the tasks, not their frames.

    nice -n 19 python3 training/family_base.py --corpus CORPUS.jsonl.xz --minutes 50 --ranks 2

Runs --ranks processes of one thread each that average their gradients. May be interrupted: the same
command goes on from the last checkpoint in --work. Each checkpoint also writes the folder --out.
"""

import argparse
import json
import os
import sys
import time

import numpy as np
import torch
from torch import distributed, multiprocessing
from torch.nn import functional

from chorale_training import data, export, family_card, mixture, optimisation, qwen2, tokenizer_bpe

_FINAL_LR_SHARE = 0.02


def parse_flags(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--corpus", required=True, help="jsonl or jsonl.xz of {package, path, text}")
    add("--out", default="models/family/base", help="the model folder to write")
    add("--work", default="build/training/family_base", help="folder of checkpoint and tokens")
    add("--minutes", type=float, default=50, help="training time")
    add("--ranks", type=int, default=2, help="processes of one thread")
    add("--vocab-size", type=int, default=1536)
    add("--hidden-size", type=int, default=256)
    add("--intermediate-size", type=int, default=512)
    add("--layers", type=int, default=6)
    add("--heads", type=int, default=8)
    add("--kv-heads", type=int, default=2)
    add("--max-position", type=int, default=4096)
    add("--window", type=int, default=256, help="tokens of a training window")
    add("--long-window", type=int, default=1280, help="tokens of a window in the last part")
    add("--long-share", type=float, default=0.05, help="share of the run with long windows")
    add("--batch-tokens", type=int, default=2560, help="tokens of a step and rank")
    add("--corpus-share", type=float, default=0.15, help="share of windows cut from the corpus")
    add("--corpus-files", type=int, default=1200, help="files of the corpus to tokenise")
    add("--lr", type=float, default=2.5e-3, help="peak learning rate of AdamW")
    add("--warmup-steps", type=int, default=150)
    add("--weight-decay", type=float, default=0.1, help="of matrices, not of the embedding")
    add("--checkpoint-minutes", type=float, default=4)
    add("--seed", type=int, default=1)
    return parser.parse_args(arguments)


def prepare(flags):
    """(tokenizer, tokens of the corpus), kept in --work for later."""
    tokens_path = os.path.join(flags.work, "corpus.npy")
    tokenizer_path = os.path.join(flags.work, "tokenizer.json")
    if not (os.path.exists(tokens_path) and os.path.exists(tokenizer_path)):
        files, _ = data.split(data.read_corpus(flags.corpus), 1.0)
        files = files[: flags.corpus_files]
        texts = [text[:20_000] for _, text in files]
        mixed = list(mixture.tokenizer_texts(flags.seed, 20_000))
        tokenizer = tokenizer_bpe.train([*mixed, *texts[:120]], flags.vocab_size)
        tokens = data.tokenize([(n, t) for (n, _), t in zip(files, texts)], tokenizer)
        np.save(tokens_path, tokens)
        export.write_text(tokenizer_path, tokenizer.to_text())
    return tokenizer_bpe.load(tokenizer_path), np.load(tokens_path)


class Run:
    """One rank of the training. `progress`, weights and optimizer are all that a resume needs."""

    def __init__(self, flags, rank):
        self.flags, self.rank = flags, rank
        self.tokenizer, corpus = prepare(flags)
        self.batches = mixture.Batches(self.tokenizer, corpus, flags.seed, flags.corpus_share)
        self.corpus_tokens = len(corpus)
        config = qwen2.Config(
            vocab_size=self.tokenizer.vocab_size, hidden_size=flags.hidden_size,
            intermediate_size=flags.intermediate_size, num_hidden_layers=flags.layers,
            num_attention_heads=flags.heads, num_key_value_heads=flags.kv_heads,
            max_position_embeddings=flags.max_position)
        torch.manual_seed(flags.seed)
        self.model = qwen2.Qwen2(config)
        self.model.init_weights()
        self.optimizer = optimisation.adamw(self.model, flags.lr, flags.weight_decay)
        self.progress = {"step": 0, "tokens": 0, "seconds": 0.0}
        self.checkpoint_path = os.path.join(flags.work, "checkpoint.pt")
        self.metrics_path = os.path.join(flags.work, "metrics.jsonl")
        if os.path.exists(self.checkpoint_path):
            self.progress = optimisation.load_checkpoint(self.checkpoint_path, self.model,
                                                         self.optimizer)

    def save(self):
        optimisation.save_checkpoint(self.checkpoint_path, self.model, self.optimizer,
                                     self.progress)

    def share_done(self):
        """0 at the start, 1 when the time is spent."""
        return min(1.0, self.progress["seconds"] / (60 * self.flags.minutes))

    def learning_rate(self):
        """Linear warm-up by steps, then a cosine over the time."""
        return self.flags.lr * optimisation.course(
            self.progress["step"], self.share_done(), self.flags.warmup_steps, _FINAL_LR_SHARE)

    def loss(self, step, rank, length):
        """Mean weighted cross entropy in nats a token of this rank's batch."""
        rows = max(1, self.flags.batch_tokens // length)
        ids, weights = (torch.from_numpy(a) for a in self.batches.batch(step, rank, rows, length))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.model(ids[:, :-1])
        losses = functional.cross_entropy(
            logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        weights = weights[:, 1:].flatten()
        return (losses * weights).sum() / weights.sum()

    def _average_gradients(self, loss):
        """Over all ranks; the mean loss. One message: gradients, then the loss."""
        grads = [p.grad.flatten() for p in self.model.parameters()]
        flat = torch.cat([*grads, torch.tensor([loss])])
        if self.flags.ranks > 1:
            distributed.all_reduce(flat)
            flat /= self.flags.ranks
        offset = 0
        for parameter in self.model.parameters():
            parameter.grad.copy_(flat[offset : offset + parameter.numel()].view_as(parameter))
            offset += parameter.numel()
        return float(flat[-1])

    def step(self):
        """One optimizer step; the mean loss over ranks."""
        begin, flags = time.monotonic(), self.flags
        is_long = self.share_done() >= 1 - flags.long_share
        length = flags.long_window if is_long else flags.window
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        loss = self.loss(self.progress["step"], self.rank, length)
        loss.backward()
        mean = self._average_gradients(loss.item())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seconds = torch.tensor([time.monotonic() - begin], dtype=torch.float64)
        if flags.ranks > 1:
            distributed.broadcast(seconds, 0)
        self.progress["step"] += 1
        self.progress["tokens"] += flags.ranks * flags.batch_tokens
        self.progress["seconds"] += float(seconds)
        return mean

    @torch.no_grad()
    def report(self, train_loss):
        """A line of metrics.jsonl, then the model folder. Judged on batches of another rank."""
        held_out = sum(self.loss(i, "judge", self.flags.window).item() for i in range(6)) / 6
        line = {"step": self.progress["step"], "tokens": self.progress["tokens"],
                "minutes": round(self.progress["seconds"] / 60, 3),
                "train_loss": round(train_loss, 4), "held_out_loss": round(held_out, 4)}
        with open(self.metrics_path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print("report", json.dumps(line), flush=True)
        with open(self.metrics_path, encoding="utf-8") as file:
            lines = [json.loads(text) for text in file]
        export.save(self.flags.out, self.model, self.tokenizer)
        family_card.save(self.flags.out, vars(self.flags), self.model, self.corpus_tokens, lines)


def train(run):
    flags, progress, losses = run.flags, run.progress, []
    printed = checkpointed = progress["seconds"]
    while run.share_done() < 1:
        losses.append(run.step())
        if run.rank == 0 and progress["seconds"] - printed >= 10:
            recent, done = losses[-20:], run.share_done()
            printed = progress["seconds"]
            print(f"step {progress['step']}  {progress['tokens'] / 1e6:.2f} M tokens  "
                  f"loss {sum(recent) / len(recent):.3f}  lr {run.learning_rate():.2e}  "
                  f"{done:.1%}", flush=True)
        if progress["seconds"] - checkpointed >= 60 * flags.checkpoint_minutes:
            checkpointed = progress["seconds"]
            if run.rank == 0:
                run.save()
                run.report(sum(losses) / len(losses))
            losses.clear()
    if run.rank == 0:
        run.save()
        run.report(sum(losses) / max(1, len(losses)) if losses else 0.0)


def run_rank(rank, flags):
    torch.set_num_threads(1)
    if flags.ranks > 1:
        distributed.init_process_group(
            "gloo", init_method=f"file://{os.path.abspath(flags.work)}/rendezvous",
            rank=rank, world_size=flags.ranks)
    run = Run(flags, rank)
    if rank == 0:
        print(json.dumps(vars(flags)), flush=True)
        count = sum(p.numel() for p in run.model.parameters())
        print(f"{count:,} parameters; from step {run.progress['step']}", flush=True)
    train(run)


def main(arguments=None):
    flags = parse_flags(arguments)
    os.makedirs(flags.work, exist_ok=True)
    os.makedirs(flags.out, exist_ok=True)
    prepare(flags)
    if flags.ranks == 1:
        run_rank(0, flags)
        return 0
    rendezvous = os.path.join(flags.work, "rendezvous")
    if os.path.exists(rendezvous):
        os.remove(rendezvous)
    multiprocessing.spawn(run_rank, (flags,), nprocs=flags.ranks)
    return 0


if __name__ == "__main__":
    sys.exit(main())
