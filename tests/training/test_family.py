"""The commands of the family on a tiny base, and the files that ship."""

import contextlib
import http.server
import io
import json
import os
import random
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../training"))

import family as family_command  # noqa: E402
import family_base  # noqa: E402
import heldout  # noqa: E402
import modes_golden  # noqa: E402
import score  # noqa: E402
from chorale_training import family, mixture, recipes, report, tasks, tokenizer_bpe  # noqa: E402

SHIPPED = os.path.join(os.path.dirname(__file__), "../../models/family")


def make_tiny_base(folder):
    """A base of one layer and two steps, made by the command itself."""
    corpus = os.path.join(folder, "corpus.jsonl")
    with open(corpus, "w", encoding="utf-8") as file:
        for i in range(30):
            text = f"def f{i}(x):\n    return x + {i}\n" * 20
            file.write(json.dumps({"package": "p", "path": f"{i}.py", "text": text}) + "\n")
    family_base.main([
        "--corpus", corpus, "--out", os.path.join(folder, "family/base"),
        "--work", os.path.join(folder, "work"), "--minutes", "0.001", "--ranks", "1",
        "--vocab-size", "400", "--hidden-size", "16", "--intermediate-size", "32", "--layers", "1",
        "--heads", "2", "--kv-heads", "1", "--window", "64", "--batch-tokens", "128"])


class Commands(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder, self.out = folder.name, os.path.join(folder.name, "family")
        kept = dict(recipes.KINDS)
        self.addCleanup(recipes.KINDS.update, kept)
        for name, kind in kept.items():
            recipes.KINDS[name] = recipes.Kind(**{**kind.__dict__, "steps": 2, "rank": 2})

    def test_makes_ships_and_scores_every_kind_of_module(self):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            make_tiny_base(self.folder)
            heldout.main(["--out", os.path.join(self.out, "heldout"), "--count", "4"])
            flags = family_command.parse_flags([
                "--out", self.out, "--work", os.path.join(self.folder, "modules"), "--batch", "2",
                "--items", "4"])
            for kind in recipes.KINDS:
                family_command.make_module((flags, "code", kind))
            family_command.make_module((flags, "math", "icarus"))
            family_command.make_module((flags, "math", "full"))
            family_command.ship(flags)
            self.assertEqual(score.main(["--family", self.out, "--models", "math,code-sun",
                                         "--items", "2", "--cache", self.folder]), 0)
            modes_golden.main(["--family", self.out])
        self.assertIn("code-sun", output.getvalue())
        models = family.read_config(self.out)
        self.assertEqual(models["math"].mode, "icarus")
        self.assertEqual(models["code-full"].folder, "code/full")
        self.assertNotIn("math-full", models)  # only one full-weight module of a kind ships
        self.assertIn("| full fine-tune |", report.table(report.collect(flags.work)))


class _Server(http.server.BaseHTTPRequestHandler):
    """Answers every prompt of `answers`; refuses other models than "math"."""

    answers = {}

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_known = body["model"] == "math" and body["temperature"] == 0
        reply = {"choices": [{"text": self.answers.get(body["prompt"])}]}
        if not is_known:
            reply = {"error": {"message": "no such model"}}
        self.send_response(200 if is_known else 404)
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *_):
        pass


class ThroughServer(unittest.TestCase):
    def setUp(self):
        self.items = [tasks.module("math").generate(random.Random(i)) for i in range(6)]
        _Server.answers = {item.prompt: item.answer for item in self.items}
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.flags = score.parse_flags(["--url", f"http://127.0.0.1:{server.server_port}/"])

    def test_outputs_come_in_the_order_of_the_items(self):
        outputs = score.server_outputs(self.flags, "math", self.items)
        self.assertEqual(outputs, [item.answer for item in self.items])

    def test_a_refusal_is_told_in_the_servers_words(self):
        with self.assertRaisesRegex(RuntimeError, "model maths: HTTP 404: .*no such model"):
            score.server_outputs(self.flags, "maths", self.items)


class Mixture(unittest.TestCase):
    def test_a_batch_is_a_function_of_seed_step_and_rank(self):
        tokenizer = tokenizer_bpe.train(mixture.tokenizer_texts(1, 200), 400)
        corpus = list(range(300)) * 4
        made = [mixture.Batches(tokenizer, corpus, 1, 0.5).batch(3, 0, 4, 64) for _ in range(2)]
        for left, right in zip(*made):
            self.assertTrue((left == right).all())
        other = mixture.Batches(tokenizer, corpus, 1, 0.5).batch(3, 1, 4, 64)
        self.assertFalse((made[0][0] == other[0]).all())

    def test_never_holds_a_task(self):
        rng = random.Random(4)
        marks = ("Steps:\n", "Call:\n", "Code:\n", "Fixed:\n")
        for _ in range(2000):
            self.assertFalse(mixture.document(rng)[0].endswith(marks))


@unittest.skipUnless(os.path.exists(os.path.join(SHIPPED, "modes_golden.json")),
                     "models/family is absent; training/family.py makes it")
class Shipped(unittest.TestCase):
    def test_golden_values_are_those_of_the_files(self):
        with open(os.path.join(SHIPPED, "modes_golden.json"), encoding="utf-8") as file:
            stored = json.load(file)["models"]
        self.assertEqual({"standard", "prefillshare", "sun", "icarus"}, {r["mode"] for r in stored})
        for record in stored:
            again = modes_golden.compute(SHIPPED, record["model"])
            for key in ("prompt_ids", "output_ids", "mode", "ended"):
                self.assertEqual(again[key], record[key], record["model"])
            for key in ("first_logits", "second_logits"):
                worst = max(abs(a - b) for a, b in zip(again[key], record[key]))
                self.assertLess(worst, 1e-3, record["model"])

    def test_every_model_of_the_config_is_there(self):
        models = family.read_config(SHIPPED)
        for task in tasks.NAMES:
            self.assertEqual(models[task].mode, "icarus")
        for entry in models.values():
            files = os.listdir(os.path.join(SHIPPED, entry.folder))
            self.assertTrue({"adapter_model.safetensors", "model.safetensors"} & set(files))

    def test_all_models_fit_in_60_megabytes(self):
        total = 0
        for folder, _, names in os.walk(os.path.dirname(SHIPPED)):
            total += sum(os.path.getsize(os.path.join(folder, name)) for name in names)
        self.assertLessEqual(total, 60_000_000)


if __name__ == "__main__":
    unittest.main()
