#!/usr/bin/env python3
"""Measures `chorale bench engine` and llama.cpp in turns on the 125 M shape, and prints medians.

llama.cpp is brought by whoever runs this: --llama-bench and --llama-batched-bench name its
programs.
Both sides get random bf16 weights of one shape; llama.cpp's are written here as a GGUF file. The two
run one after the other, --rounds times, first the one and then the other first, and a ratio is the
median of the rounds' ratios: the machine's drift hits both sides of each. The result is printed as a
table and, with --out, written as bench/results/*.json.
"""
import argparse
import datetime
import json
import os
import platform
import statistics
import struct
import subprocess
import sys
import tempfile

SHAPE = {"layers": 12, "hidden": 768, "heads": 12, "kv_heads": 4, "ffn": 2048, "vocab": 32000}
GGUF_TYPE_F32, GGUF_TYPE_BF16 = 0, 30


def write_gguf(path):
    """Writes a Llama of SHAPE with random bf16 weights and no vocabulary."""
    s = SHAPE
    kv = s["hidden"] // s["heads"] * s["kv_heads"]
    tensors = [("token_embd.weight", [s["hidden"], s["vocab"]], GGUF_TYPE_BF16),
               ("output.weight", [s["hidden"], s["vocab"]], GGUF_TYPE_BF16),
               ("output_norm.weight", [s["hidden"]], GGUF_TYPE_F32)]
    for i in range(s["layers"]):
        for name, rows, cols in (("attn_q", s["hidden"], s["hidden"]), ("attn_k", kv, s["hidden"]),
                                 ("attn_v", kv, s["hidden"]),
                                 ("attn_output", s["hidden"], s["hidden"]),
                                 ("ffn_gate", s["ffn"], s["hidden"]),
                                 ("ffn_up", s["ffn"], s["hidden"]),
                                 ("ffn_down", s["hidden"], s["ffn"])):
            tensors.append((f"blk.{i}.{name}.weight", [cols, rows], GGUF_TYPE_BF16))
        for name in ("attn_norm", "ffn_norm"):
            tensors.append((f"blk.{i}.{name}.weight", [s["hidden"]], GGUF_TYPE_F32))

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    def uint32(key, value):
        return text(key) + struct.pack("<II", 4, value)

    def float32(key, value):
        return text(key) + struct.pack("<If", 6, value)

    def string(key, value):
        return text(key) + struct.pack("<I", 8) + text(value)

    metadata = [string("general.architecture", "llama"), uint32("llama.context_length", 4096),
                uint32("llama.embedding_length", s["hidden"]),
                uint32("llama.block_count", s["layers"]),
                uint32("llama.feed_forward_length", s["ffn"]),
                uint32("llama.attention.head_count", s["heads"]),
                uint32("llama.attention.head_count_kv", s["kv_heads"]),
                uint32("llama.vocab_size", s["vocab"]),
                uint32("llama.rope.dimension_count", s["hidden"] // s["heads"]),
                float32("llama.attention.layer_norm_rms_epsilon", 1e-5),
                string("tokenizer.ggml.model", "no_vocab")]

    def size_of(dims, kind):
        count = 1
        for d in dims:
            count *= d
        return count * (4 if kind == GGUF_TYPE_F32 else 2)

    def aligned(n):
        return (n + 31) // 32 * 32

    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(metadata)
    offset = 0
    for name, dims, kind in tensors:
        header += text(name) + struct.pack("<I", len(dims))
        header += b"".join(struct.pack("<Q", d) for d in dims)
        header += struct.pack("<IQ", kind, offset)
        offset += aligned(size_of(dims, kind))
    with open(path, "wb") as out:
        out.write(header + b"\0" * (aligned(len(header)) - len(header)))
        # bf16 values of about +-0.02: sign from one random bit, exponent and mantissa from a table.
        noise = bytes(b for r in os.urandom(1 << 20) for b in (r, 0x3C | (0x80 if r & 1 else 0)))
        for _, dims, kind in tensors:
            size = size_of(dims, kind)
            if kind == GGUF_TYPE_F32:
                data = struct.pack("<f", 1.0) * (size // 4)
            else:
                data = (noise * (size // len(noise) + 1))[:size]
            out.write(data + b"\0" * (aligned(size) - size))


def run(command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True).stdout


def run_llama(args, gguf):
    figures = {}
    rows = json.loads(run([args.llama_bench, "-m", gguf, "-p", "512", "-n", "128", "-r", "1",
                           "-t", str(args.threads), "-o", "json"]))
    for row in rows:
        name = "prefill 512" if row["n_prompt"] else "decode 128, batch 1"
        figures[name] = row["avg_ts"]
    for line in run([args.llama_batched_bench, "-m", gguf, "-npp", "1", "-ntg", "128", "-npl",
                     "8,32", "-c", "8192", "-t", str(args.threads), "--output-format",
                     "jsonl"]).splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            figures[f"decode 128, batch {row['pl']}"] = row["speed_tg"]
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chorale", default="build/dev/bin/chorale")
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("--llama-batched-bench", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", help="write the result here as JSON")
    args = parser.parse_args()

    ours, theirs, limits, units = {}, {}, {}, {}

    def run_ours():
        result = json.loads(run([args.chorale, "bench", "engine", "--json", "--repeat", "1",
                                 "--threads", str(args.threads)]))
        for figure in result["figures"]:
            ours.setdefault(figure["metric"], []).append(figure["value"])
            limits.setdefault(figure["metric"], []).append(figure["limit"])
            units[figure["metric"]] = figure["unit"]

    def run_theirs():
        for metric, value in run_llama(args, gguf).items():
            theirs.setdefault(metric, []).append(value)

    with tempfile.TemporaryDirectory() as folder:
        gguf = os.path.join(folder, "125m-bf16.gguf")
        write_gguf(gguf)
        for round_ in range(args.rounds):
            print(f"round {round_ + 1} of {args.rounds}", file=sys.stderr)
            for side in (run_ours, run_theirs)[::1 if round_ % 2 == 0 else -1]:
                side()

    commit = run(["git", "rev-parse", "--short", "HEAD"]).strip()
    rows = []
    for metric, values in ours.items():
        value = statistics.median(values)
        peer = statistics.median(theirs[metric]) if metric in theirs else None
        ratio = (statistics.median(a / b for a, b in zip(values, theirs[metric]))
                 if peer else None)
        rows.append({"metric": metric, "value": round(value, 1), "unit": units[metric],
                     "peer": "llama.cpp" if peer else None,
                     "peer_value": round(peer, 1) if peer else None,
                     "ratio": round(ratio, 2) if peer else None,
                     "limit": round(statistics.median(limits[metric]), 1) or None,
                     "command": "bench/compare_llama_cpp.py", "machine":
                     f"{platform.machine()}, {args.threads} threads",
                     "date": datetime.date.today().isoformat(), "commit": commit})
        against = f"llama.cpp {peer:8.1f}  ratio {ratio:.2f}" if peer else ""
        print(f"{metric:26} {value:8.1f} {units[metric]:9} limit {rows[-1]['limit']}  {against}")
    if args.out:
        with open(args.out, "w", encoding="utf-8") as out:
            json.dump(rows, out, indent=1)
            out.write("\n")


if __name__ == "__main__":
    main()
