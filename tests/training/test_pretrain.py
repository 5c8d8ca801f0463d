"""The pretraining command on a corpus of a few lines and a tiny shape."""

import contextlib
import io
import json
import os
import signal
import sys
import tempfile
import unittest

import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../training"))

import pretrain  # noqa: E402
from chorale_training import export, golden  # noqa: E402


class Pretrain(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        for number in (signal.SIGTERM, signal.SIGINT):  # main() installs its own
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.out = os.path.join(folder.name, "out")
        corpus = os.path.join(folder.name, "corpus.jsonl")
        with open(corpus, "w", encoding="utf-8") as file:
            for i in range(300):
                text = f"def f{i}(x):\n    return x + {i}\n" * 4
                file.write(json.dumps({"package": "p", "path": f"{i}.py", "text": text}) + "\n")
        self.arguments = [
            "--corpus", corpus, "--out", self.out, "--work", os.path.join(folder.name, "work"),
            "--vocab-size", "300", "--hidden-size", "16", "--intermediate-size", "32",
            "--layers", "1", "--heads", "2", "--kv-heads", "1", "--window", "32",
            "--long-window", "64", "--batch-tokens", "256", "--micro-tokens", "128",
            "--held-out-percent", "10", "--warmup-steps", "5",
        ]

    def run_main(self, *more):
        with contextlib.redirect_stdout(io.StringIO()) as output:
            self.assertEqual(pretrain.main([*self.arguments, *more]), 0)
        return output.getvalue()

    def metrics(self):
        with open(os.path.join(self.out, "metrics.jsonl"), encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def make_run(self):
        with contextlib.redirect_stdout(io.StringIO()):
            flags = pretrain.parse_flags([*self.arguments, "--tokens", "20000"])
            os.makedirs(flags.work, exist_ok=True)
            return pretrain.Run(flags)

    def test_writes_a_folder_whose_loss_went_down(self):
        self.run_main("--tokens", "20000")
        self.assertLess(self.metrics()[-1]["held_out_loss"], 5.0)  # ln(300) is 5.7
        for name in ("README.md", "loss.svg", "config.json", "tokenizer_config.json",
                     "generation_config.json"):
            self.assertTrue(os.path.exists(os.path.join(self.out, name)), name)
        with open(os.path.join(self.out, "golden.json"), encoding="utf-8") as file:
            stored = json.load(file)
        self.assertEqual(stored, golden.compute(*export.load(self.out)))

    def test_writes_the_folder_anew_when_the_budget_is_spent(self):
        self.run_main("--tokens", "2000")
        lines = self.metrics()
        os.remove(os.path.join(self.out, "config.json"))
        self.assertIn("resumed: True", self.run_main("--tokens", "2000"))
        self.assertTrue(os.path.exists(os.path.join(self.out, "config.json")))
        self.assertEqual(self.metrics(), lines)

    def test_a_resumed_run_equals_one_that_went_on(self):
        run = self.make_run()
        for _ in range(3):
            run.step()
        run.save()
        again = self.make_run()
        self.assertTrue(again.resume())
        self.assertEqual([again.step() for _ in range(3)], [run.step() for _ in range(3)])

    def test_refuses_a_checkpoint_of_another_shape(self):
        run = self.make_run()
        run.save()
        self.arguments += ["--layers", "2"]
        with self.assertRaisesRegex(ValueError, "another shape"):
            self.make_run().resume()

    def test_long_windows_come_last(self):
        run = self.make_run()
        run.step()
        self.assertEqual(run.progress["windows"], {"32": 8, "64": 0})
        run.progress["tokens"] = 19_000
        run.step()
        self.assertEqual(run.progress["windows"], {"32": 8, "64": 4})

    def test_refuses_a_window_that_does_not_divide_the_batch(self):
        with contextlib.redirect_stderr(io.StringIO()) as errors, self.assertRaises(SystemExit):
            pretrain.parse_flags([*self.arguments, "--tokens", "1", "--window", "48"])
        self.assertIn("--batch-tokens 256", errors.getvalue())


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main()
