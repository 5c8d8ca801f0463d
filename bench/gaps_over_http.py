#!/usr/bin/env python3
"""Measures the gaps between tokens as a client sees them, while long prompts arrive.

    chorale up --model m=FOLDER --prefill 1 --decode 1
    bench/gaps_over_http.py --url http://127.0.0.1:8080 --vocab 6400

--streams generations run; when all have begun, --prompts prompts of --prompt-tokens random token ids
come at once. Prints the percentiles of all gaps, and when the prompts were answered.
"""
import argparse
import http.client
import json
import random
import statistics
import threading
import time
import urllib.parse


def generate(args, prompt_tokens, max_tokens, on_event):
    """One streamed completion of a random prompt; on_event is called for each of its chunks."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(args.url).netloc)
    body = {"prompt": [random.randrange(args.vocab) for _ in range(prompt_tokens)],
            "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
    if args.model:
        body["model"] = args.model
    connection.request("POST", "/v1/completions", json.dumps(body),
                       {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"error: {response.status}: {response.read().decode()}")
    for line in response:
        if line.startswith(b"data: {"):
            on_event()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--model", help="default: the only one there is")
    parser.add_argument("--vocab", type=int, required=True, help="token ids are drawn below this")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--stream-tokens", type=int, default=300)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=1024)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()

    begun = threading.Barrier(args.streams + args.prompts)
    gaps_ms, answered_s = [], []

    def stream():
        times = []

        def event():
            times.append(time.perf_counter())
            if len(times) == 20:
                begun.wait()

        generate(args, 32, args.stream_tokens, event)
        gaps_ms.extend(1000 * (b - a) for a, b in zip(times, times[1:]))

    def prompt():
        begun.wait()
        begin = time.perf_counter()
        generate(args, args.prompt_tokens, 16, lambda: None)
        answered_s.append(time.perf_counter() - begin)

    threads = [threading.Thread(target=stream) for _ in range(args.streams)]
    threads += [threading.Thread(target=prompt) for _ in range(args.prompts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not gaps_ms or len(answered_s) < args.prompts:
        raise SystemExit("error: not every generation succeeded")
    percentiles = statistics.quantiles(gaps_ms, n=100)
    result = {"gaps": len(gaps_ms), "p50_ms": round(percentiles[49], 1),
              "p99_ms": round(percentiles[98], 1), "max_ms": round(max(gaps_ms), 1),
              "prompts_answered_s": [round(s, 2) for s in sorted(answered_s)]}
    if args.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:20} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
