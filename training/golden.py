#!/usr/bin/env python3
"""Writes golden.json of a model folder anew, and prints the completions in it.

    python3 training/golden.py models/base
"""

import argparse

import torch

from chorale_training import golden


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="a model folder written by pretrain.py")
    parser.add_argument("--threads", type=int, default=1)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    for row in golden.save(flags.folder)["completions"]:
        print(f"--- margin {row['margin_min']}\n{row['text']}|>{row['greedy_text']}")


if __name__ == "__main__":
    main()
