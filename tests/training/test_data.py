"""The corpus: split, tokens, windows."""

import json
import lzma
import os
import sys
import tempfile
import unittest

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../training"))

from chorale_training import data, tokenizer_bpe  # noqa: E402


class Corpus(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "corpus.jsonl.xz")

    def write(self, *records):
        with lzma.open(self.path, "wt", encoding="utf-8") as file:
            file.write("".join(json.dumps(record) + "\n" for record in records))

    def test_reads_names_and_texts(self):
        self.write({"package": "p", "path": "a.py", "text": "x = 'é'\n"})
        self.assertEqual(list(data.read_corpus(self.path)), [("p/a.py", "x = 'é'\n")])

    def test_names_the_line_and_field_that_is_missing(self):
        self.write({"package": "p", "path": "a.py", "text": ""}, {"package": "p", "path": "b.py"})
        with self.assertRaisesRegex(ValueError, ":2: field 'text'"):
            list(data.read_corpus(self.path))


class Split(unittest.TestCase):
    DOCUMENTS = [(f"p/{i}.py", str(i)) for i in range(2000)]

    def test_every_file_is_on_one_side(self):
        training, held_out = data.split(self.DOCUMENTS, 5)
        self.assertEqual(sorted(training + held_out), sorted(self.DOCUMENTS))
        self.assertTrue(60 < len(held_out) < 140)

    def test_does_not_depend_on_the_order_of_the_corpus(self):
        self.assertEqual(data.split(self.DOCUMENTS[::-1], 5), data.split(self.DOCUMENTS, 5))


class Tokens(unittest.TestCase):
    def test_a_document_starts_and_ends_with_end_of_text(self):
        tokenizer = tokenizer_bpe.train(["x"], 272)
        ids = data.tokenize([("a", "x<|endoftext|>"), ("b", "")], tokenizer)
        self.assertEqual(np.flatnonzero(ids == 0).tolist(), [0, len(ids) - 2, len(ids) - 1])


class Windows(unittest.TestCase):
    def test_an_epoch_has_every_window_once(self):
        tokens = np.arange(1010, dtype=np.uint16)
        windows = data.Windows(tokens, 100, seed=4)
        for epoch in range(2):
            rows = windows.batch(epoch * 9, 9)
            self.assertEqual(rows.shape, (9, 101))
            self.assertTrue((np.diff(rows, axis=1) == 1).all())
            self.assertEqual(np.diff(np.sort(rows[:, 0])).tolist(), [100] * 8)

    def test_a_window_depends_on_its_number_alone(self):
        tokens = np.arange(1010, dtype=np.uint16)
        one_by_one = data.Windows(tokens, 100, seed=4)
        at_once = data.Windows(tokens, 100, seed=4).batch(5, 10)
        for i in reversed(range(10)):
            np.testing.assert_array_equal(one_by_one.batch(5 + i, 1)[0], at_once[i])

    def test_refuses_too_few_tokens(self):
        with self.assertRaisesRegex(ValueError, "150 tokens"):
            data.Windows(np.zeros(150, dtype=np.uint16), 100, seed=1)


if __name__ == "__main__":
    unittest.main()
