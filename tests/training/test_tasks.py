"""The family's tasks: right answers score, wrong ones do not, and training never sees what is held
out."""

import json
import os
import random
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../training"))

from chorale_training import tasks  # noqa: E402
from chorale_training.tasks import programs, sandbox  # noqa: E402

HELD_OUT = os.path.join(os.path.dirname(__file__), "../../models/family/heldout")


def items_of(name, count=40, held_out=False):
    rng = random.Random(f"{name} 7")
    return [tasks.module(name).generate(rng, held_out) for _ in range(count)]


class EveryTask(unittest.TestCase):
    def test_its_own_answers_score(self):
        for name in tasks.NAMES:
            items = items_of(name)
            outputs = [item.answer for item in items]
            self.assertTrue(all(tasks.module(name).score_all(items, outputs)), name)

    def test_nothing_and_noise_do_not_score(self):
        for name in tasks.NAMES:
            items = items_of(name, 6)
            for output in ("", "\n", "pears", "{", "def f(", "{}", "0" * 50):
                scores = tasks.module(name).score_all(items, [output] * len(items))
                self.assertFalse(any(scores), f"{name} {output!r}")

    def test_training_and_held_out_parts_do_not_meet(self):
        for name in tasks.NAMES:
            seen = {item.key for item in items_of(name, 400)}
            kept = {item.key for item in items_of(name, 100, held_out=True)}
            self.assertFalse(seen & kept, name)

    def test_prompts_end_with_a_line_and_are_short(self):
        for name in tasks.NAMES:
            for item in items_of(name):
                self.assertTrue(item.prompt.endswith(":\n"), item.prompt)
                self.assertLess(len(item.prompt + item.answer), 400)

    def test_the_same_seed_gives_the_same_items(self):
        for name in tasks.NAMES:
            self.assertEqual(items_of(name), items_of(name))

    def test_dialects_are_not_the_task(self):
        for name in tasks.NAMES:
            rng, endings = random.Random(3), {item.prompt[-8:] for item in items_of(name)}
            prompts = [tasks.module(name).dialect(rng)[0] for _ in range(300)]
            self.assertFalse([p for p in prompts if p[-8:] in endings], name)

    def test_shipped_items_score_with_their_own_answers(self):
        if not os.path.exists(HELD_OUT):
            self.skipTest("models/family/heldout is absent; training/heldout.py writes it")
        for name in tasks.NAMES:
            items = tasks.load_items(os.path.join(HELD_OUT, f"{name}.jsonl"))
            self.assertEqual(len(items), 512)
            part = items[:64]
            self.assertTrue(all(tasks.module(name).score_all(part, [i.answer for i in part])))

    def test_an_unknown_task_is_named(self):
        with self.assertRaisesRegex(ValueError, "'maths' is not one of math"):
            tasks.module("maths")


class Math(unittest.TestCase):
    def test_the_last_number_counts(self):
        item = tasks.Item("", "", {"result": 24}, "")
        score = tasks.module("math").score
        self.assertTrue(score(item, "3*4=12\n12*2=24"))
        self.assertFalse(score(item, "24=12*2"))
        self.assertFalse(score(item, "3*4=12\n12*2=245"))


class Tools(unittest.TestCase):
    def test_the_call_is_compared_as_json(self):
        call = {"name": "play", "arguments": {"song": "blue moon", "volume": 7}}
        item, score = tasks.Item("", "", {"call": call}, ""), tasks.module("tools").score
        self.assertTrue(score(item, json.dumps(call, indent=2)))
        for wrong in ({**call, "name": "pay"}, {**call, "extra": 1},
                      {**call, "arguments": {"song": "blue moon", "volume": "7"}},
                      {**call, "arguments": {"song": "blue", "volume": 7}}):
            self.assertFalse(score(item, json.dumps(wrong)))


class Programs(unittest.TestCase):
    def test_a_broken_program_fails_its_tests(self):
        rng = random.Random(2)
        jobs = []
        for _ in range(60):
            program = programs.sample(rng)
            names = programs.names_of(program, rng)
            broken = programs.source(programs.break_one(program, rng), names)
            jobs.append((broken, names["f"], programs.tests(program, names)))
        self.assertFalse(any(sandbox.passes(jobs)))


class Sandbox(unittest.TestCase):
    def passes(self, *bodies):
        return sandbox.passes([(f"def f(x):\n{body}", "f", [[[1], 2]]) for body in bodies])

    def test_runs_each_function_by_itself(self):
        self.assertEqual(self.passes(
            "    return x + 1", "    return x", "    return 'unended", "    while True: pass",
            "    return [0] * 10**12", "    return f(x)", "    return x + 1"),
            [True, False, False, False, False, False, True])

    def test_gives_no_imports_files_or_printing(self):
        self.assertEqual(self.passes(
            "    import os\n    return 2", "    open('/tmp/x', 'w')\n    return 2",
            "    print(2)\n    return 2", "    return 2.0", "    return True"), [False] * 5)


if __name__ == "__main__":
    unittest.main()
