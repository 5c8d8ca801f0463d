#!/usr/bin/env python3
"""Measures what sharing a decode base is worth: SUN on one decode worker against a worker a model.

    bench/sun.py --bin build/dev/bin

Both sides are a cluster of real processes on this machine, a router in front of decode workers, and
serve --models models of the 125 M shape (random weights, written by bench_modes into a temporary
folder):

    shared    one decode worker, models of mode sun: rows of all models go through the base together
    separate  one decode worker a model, of its own weights; of --threads 1 and 2 each the better

The load is a closed loop of --sessions clients. The model of the next request is drawn by Zipf's
law (s = 1), the same sequence on both sides. A model's prompt is always the same one, and all of it
but the last token is cached after the first request, so decode is what is measured. The sides take
turns, --rounds times, the one idle while the other is measured, and a ratio is the median of the
rounds' ratios. A third turn asks the shared worker for the same models on the base in int4.
"""
import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

VOCAB = 32000
PROGRAMS = ("bench_modes", "chorale-orchestrator", "chorale-decode", "chorale-router")


class Process:
    """A program of Chorale, until it is closed."""

    def __init__(self, args, folder, program, *flags):
        self.name = f"{program}-{time.monotonic_ns()}"
        self.address_file = os.path.join(folder, self.name + ".addresses")
        self.log = os.path.join(folder, self.name + ".log")
        with open(self.log, "w", encoding="utf-8") as log:
            # A session of its own: Ctrl-C reaches this script alone, which then ends the process.
            self.process = subprocess.Popen(
                [os.path.join(args.bin, program), "--address-file", self.address_file,
                 "--drain-seconds", "0", *flags],
                stdout=log, stderr=log, start_new_session=True)

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def address(self, kind):
        """Where it listens, once it does."""
        while not os.path.exists(self.address_file):
            self.check_running()
            time.sleep(0.02)
        with open(self.address_file, encoding="utf-8") as lines:
            return dict(line.strip().split("=", 1) for line in lines)[kind]

    def check_running(self):
        if self.process.poll() is not None:
            with open(self.log, encoding="utf-8") as log:
                raise SystemExit(f"error: {self.name} ended:\n{log.read()[-2000:]}")


class Cluster:
    """A router before decode workers; `workers` are the flags of each."""

    def __init__(self, args, folder, stack, workers, models):
        def start(program, *flags):
            return stack.enter_context(contextlib.closing(Process(args, folder, program, *flags)))

        orchestrator = start("chorale-orchestrator")
        join = ("--orchestrator", orchestrator.address("grpc"))
        self.decode = [start("chorale-decode", *join, "--kv-mib", "128", *flags)
                       for flags in workers]
        router = start("chorale-router", *join)
        self.http = router.address("http")
        self.processes = [orchestrator, *self.decode, router]
        self.await_models(models)

    def await_models(self, models):
        """Returns when all are served; a process that ends meanwhile is an error."""
        while True:
            for process in self.processes:
                process.check_running()
            connection = http.client.HTTPConnection(self.http)
            connection.request("GET", "/v1/models")
            listed = json.loads(connection.getresponse().read()).get("data", [])
            connection.close()
            if set(models) <= {model["id"] for model in listed}:
                return
            time.sleep(0.1)


class Load:
    """The closed loop. A request counts by the share of its time that lies between the warm-up and
    the end; the first one of each session is of another length, so that they do not go in step."""

    def __init__(self, args, cluster, models, seed):
        self.args, self.cluster, self.models = args, cluster, models
        self.popularity = [1 / rank for rank in range(1, len(models) + 1)]
        self.draw = random.Random(seed)
        self.lock = threading.Lock()
        self.ended = []  # (begin, end, tokens)
        self.errors = []
        self.stop = threading.Event()

    def next_model(self):
        with self.lock:
            return self.draw.choices(range(len(self.models)), self.popularity)[0]

    def send(self, connection, index, output_tokens):
        prompt = random.Random(index)
        body = {"model": self.models[index], "max_tokens": output_tokens,
                "prompt": [prompt.randrange(VOCAB) for _ in range(self.args.prompt_tokens)],
                "ignore_eos": True, "temperature": 0}
        begin = time.perf_counter()
        connection.request("POST", "/v1/completions", json.dumps(body),
                           {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {answer.decode()}")
        end = time.perf_counter()
        tokens = json.loads(answer)["usage"]["completion_tokens"]
        with self.lock:
            self.ended.append((begin, end, tokens))

    def session(self, number):
        output_tokens = 1 + self.args.output_tokens * number // self.args.sessions
        connection = http.client.HTTPConnection(self.cluster.http, timeout=120)
        try:
            while not self.stop.is_set():
                self.send(connection, self.next_model(), output_tokens)
                output_tokens = self.args.output_tokens
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            self.errors.append(error)
            self.stop.set()
        finally:
            connection.close()

    def run(self, seconds, on_begin=lambda: None, on_end=lambda: None):
        """(tokens/s, median ms a token) of `seconds` after the warm-up."""
        connection = http.client.HTTPConnection(self.cluster.http, timeout=120)
        for index in range(len(self.models)):
            self.send(connection, index, 1)  # so that every prompt is cached
        connection.close()
        sessions = [threading.Thread(target=self.session, args=(number,))
                    for number in range(self.args.sessions)]
        try:
            for session in sessions:
                session.start()
            self.stop.wait(self.args.warmup_seconds)
            on_begin()
            begin = time.perf_counter()
            self.stop.wait(seconds)
            end = time.perf_counter()
            on_end()
        finally:
            self.stop.set()
            for session in sessions:
                session.join()
        if self.errors:
            raise SystemExit(f"error: a request failed: {self.errors[0]}")
        inside = [(min(e, end) - max(b, begin), e - b, n) for b, e, n in self.ended
                  if b < end and e > begin]
        if not inside:
            raise SystemExit("error: no request ran in time; give more --seconds")
        return (sum(n * part / whole for part, whole, n in inside) / (end - begin),
                statistics.median(1000 * whole / n for _, whole, n in inside))


def bench_modes(args, *flags):
    return subprocess.run([os.path.join(args.bin, "bench_modes"), *flags], check=True,
                          stdout=subprocess.PIPE).stdout


def run_shared(args, cluster, models, seed, decode_passes):
    """Adds to decode_passes what happened meanwhile: all passes, mixed ones, tokens."""
    snapshots = []

    def look():
        address = cluster.decode[0].address("grpc")
        snapshots.append(json.loads(bench_modes(args, "--counters", address)))

    result = Load(args, cluster, models, seed).run(args.seconds, look, look)
    for name in decode_passes:
        decode_passes[name] += snapshots[1][name] - snapshots[0][name]
    return result


def separate_cluster(args, folder, stack, models, threads):
    workers = [("--model", f"{model}={folder}/family/base", "--threads", str(threads))
               for model in models]
    return Cluster(args, folder, stack, workers, models)


def better_threads(args, folder, models):
    """Of --peer-threads the one with which separate workers are faster."""
    rates = {}
    for threads in args.peer_threads:
        with contextlib.ExitStack() as stack:
            cluster = separate_cluster(args, folder, stack, models, threads)
            rates[threads] = Load(args, cluster, models, 0).run(args.seconds / 2)[0]
        note(f"separate with --threads {threads} each: {rates[threads]:.0f} tokens/s")
    return max(rates, key=rates.get)


def note(text):
    print(text, file=sys.stderr, flush=True)


def measure(args, folder, stack):
    bench_modes(args, "--write-family", f"{folder}/family", "--models", str(args.models))
    plain = [f"m{i}" for i in range(args.models)]
    int4 = [f"q{i}" for i in range(args.models)]
    peer_threads = better_threads(args, folder, plain)
    separate = separate_cluster(args, folder, stack, plain, peer_threads)
    shared = Cluster(args, folder, stack,
                     [("--models", f"{folder}/family", "--threads", str(args.threads))],
                     plain + int4)
    rounds = {"shared": [], "int4": [], "separate": []}
    passes = {"decode_passes": 0, "decode_passes_mixed": 0, "tokens_generated": 0}
    ignored = dict(passes)
    for number in range(1, args.rounds + 1):
        turns = {"separate": lambda: Load(args, separate, plain, number).run(args.seconds),
                 "shared": lambda: run_shared(args, shared, plain, number, passes),
                 "int4": lambda: run_shared(args, shared, int4, number, ignored)}
        for side in list(turns)[::1 if number % 2 else -1]:
            rounds[side].append(turns[side]())
            note(f"round {number} of {args.rounds}: {side:8} {rounds[side][-1][0]:7.0f} tokens/s, "
                 f"{rounds[side][-1][1]:6.2f} ms a token")
    return rows_of(args, rounds, passes, f"{args.models} workers of {peer_threads} threads")


def rows_of(args, rounds, passes, separate):
    def row(metric, unit, field, side, peer, peer_name):
        values, peers = ([turn[field] for turn in rounds[s]] for s in (side, peer))
        return {"metric": metric, "value": round(statistics.median(values), 2), "unit": unit,
                "peer": peer_name, "peer_value": round(statistics.median(peers), 2),
                "ratio": round(statistics.median(a / b for a, b in zip(values, peers)), 3),
                "limit": None}

    def alone(metric, value, unit):
        return {"metric": metric, "value": round(value, 3), "unit": unit,
                **dict.fromkeys(("peer", "peer_value", "ratio", "limit"))}

    what = f"sun, {args.models} models, {args.sessions} sessions"
    share = passes["decode_passes_mixed"] / passes["decode_passes"]
    tokens = passes["tokens_generated"] / passes["decode_passes"]
    return [row(f"{what}: output", "tokens/s", 0, "shared", "separate", separate),
            row(f"{what}: time per output token", "ms", 1, "shared", "separate", separate),
            alone(f"{what}: decode passes with rows of several models", share, "share"),
            alone(f"{what}: tokens a decode pass", tokens, "tokens"),
            row(f"{what}, base in int4: output", "tokens/s", 0, "int4", "shared", "sun, bf16"),
            row(f"{what}, base in int4: time per output token", "ms", 1, "int4", "shared",
                "sun, bf16")]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/dev/bin", help="folder of Chorale's programs")
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--threads", type=int, default=0, help="of the shared worker; 0: all")
    parser.add_argument("--peer-threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--prompt-tokens", type=int, default=65, help="whole blocks of 16 and one")
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--warmup-seconds", type=float, default=3)
    parser.add_argument("--seconds", type=float, default=15, help="of one side in one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print a list of JSON objects")
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit("interrupted"))
    for program in PROGRAMS:
        if not os.path.exists(os.path.join(args.bin, program)):
            raise SystemExit(f"error: {args.bin} has no {program}; build it, or give --bin")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        rows = measure(args, folder, stack)
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        against = f"{row['peer']} {row['peer_value']}  ratio {row['ratio']}" if row["peer"] else ""
        print(f"{row['metric']:70} {row['value']:9.2f} {row['unit']:9} {against}")


if __name__ == "__main__":
    main()
