"""Runs functions written by a model, in a few limited processes; what they return is compared here.

A batch goes to one `python3 -I` process; for each function it forks a child that has no builtins
beyond a short list, no imports, no new files, one second of processor and two of wall time. A child
that crashes, hangs or prints too much loses its own function only. The expected values stay here.
This contains mistakes of small models; against a hostile program use a real sandbox.
"""

import json
import subprocess
import sys

_BATCH = 64
_SECONDS_PER_FUNCTION = 3

_WORKER = r"""
import json, os, resource, select, signal, sys
SAFE = {n: __builtins__.__dict__[n] for n in (
    "abs all any bool dict enumerate filter float int len list map max min range reversed round "
    "set sorted str sum tuple zip True False None ValueError TypeError IndexError").split()}
def limit(kind, amount):
    resource.setrlimit(kind, (amount, amount))
def child(job, out):
    limit(resource.RLIMIT_CPU, 1)
    limit(resource.RLIMIT_AS, 256 << 20)
    limit(resource.RLIMIT_FSIZE, 0)
    limit(resource.RLIMIT_NOFILE, 0)
    signal.alarm(2)
    scope = {"__builtins__": SAFE}
    exec(compile(job["source"], "answer", "exec"), scope)
    results = [scope[job["name"]](*arguments) for arguments in job["inputs"]]
    os.write(out, json.dumps(results).encode()[:60000])
def run(job):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            child(job, write)
        except BaseException:
            pass
        os._exit(0)
    os.close(write)
    ready, _, _ = select.select([read], [], [], 2.5)
    data = os.read(read, 65536) if ready else b""
    os.close(read)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    os.waitpid(pid, 0)
    return data.decode("utf-8", "replace")
jobs = json.load(sys.stdin)
null = os.open(os.devnull, os.O_RDWR)
answers = os.dup(1)
os.dup2(null, 0); os.dup2(null, 1); os.dup2(null, 2)
results = [run(job) for job in jobs]
with os.fdopen(answers, "w") as file:
    json.dump(results, file)
"""


def _run_batch(jobs):
    """The JSON text of each job's results; "" for one that failed."""
    process = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _WORKER], input=json.dumps(jobs), capture_output=True,
        text=True, timeout=_SECONDS_PER_FUNCTION * len(jobs) + 10, check=False, env={})
    if process.returncode != 0:
        raise RuntimeError(f"the worker ended with {process.returncode}: {process.stderr[-500:]}")
    return json.loads(process.stdout)


def passes(jobs):
    """[bool] of jobs (source, function name, [[arguments, result], ...])."""
    requests = [{"source": source, "name": name, "inputs": [t[0] for t in tests]}
                for source, name, tests in jobs]
    texts = []
    for begin in range(0, len(requests), _BATCH):
        texts += _run_batch(requests[begin : begin + _BATCH])
    # Compared as JSON text, so that True is not 1.
    return [text == json.dumps([t[1] for t in tests])
            for text, (_, _, tests) in zip(texts, jobs)]
