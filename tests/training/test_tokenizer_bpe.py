"""The byte-level BPE: words, training, encoding, tokenizer.json."""

import json
import os
import random
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../training"))

from chorale_training import tokenizer_bpe  # noqa: E402

TEXTS = ["def area(width, height):\n    return width * height\n" * 3,
         "for width in range(10):\n        print('width', width)\n",
         "# größe, naïve café, 日本語, ½ and 🙂\n" * 2]
ALPHABET = [*"abzAZ09 '\"_-#\n\r\t()é½日🙂\x85\xa0\u2028\x1c", "'s", "'LL", "  "]


class SplitWords(unittest.TestCase):
    CASES = {
        "": [],
        "a": ["a"],
        "hello world": ["hello", " world"],
        "  hello": [" ", " hello"],
        "x  ": ["x", "  "],
        "a\n\n  b": ["a", "\n\n", " ", " b"],
        "a  \n b": ["a", "  \n", " b"],
        "if x:\n    y": ["if", " x", ":\n", "   ", " y"],
        "12345": ["1", "2", "3", "4", "5"],
        "a1b": ["a", "1", "b"],
        "_name": ["_name"],
        "__name": ["__", "name"],
        "f(x)": ["f", "(x", ")"],
        "f (x)": ["f", " (", "x", ")"],
        "it's WE'LL": ["it", "'s", " WE", "'LL"],
        "==\n\n": ["==\n\n"],
        "größe": ["größe"],
        "日本 語": ["日本", " 語"],
        "½": ["½"],
        "a\xa0\xa0b": ["a", "\xa0", "\xa0b"],
        "a\x1cb": ["a", "\x1cb"],
    }

    def test_follows_the_qwen2_pattern(self):
        for text, words in self.CASES.items():
            with self.subTest(text=text):
                self.assertEqual(tokenizer_bpe.split_words(text), words)

    def test_ascii_and_unicode_patterns_agree_on_ascii(self):
        for text in self.CASES:
            if text.isascii():
                words = tokenizer_bpe.split_words(text + "\né")
                self.assertEqual("".join(words), text + "\né")
                plain = tokenizer_bpe.split_words(text + "\nx")
                self.assertEqual(words[:-1], plain[:-1])


class Train(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tokenizer = tokenizer_bpe.train(TEXTS, 300)

    def test_gives_the_asked_number_of_pieces_all_distinct(self):
        self.assertEqual(self.tokenizer.vocab_size, 300)
        self.assertEqual(len(set(self.tokenizer.pieces)), 300)

    def test_every_merge_joins_two_earlier_pieces(self):
        first = 300 - len(self.tokenizer.merges)
        for new_id, (left, right) in enumerate(self.tokenizer.merges, first):
            self.assertLess(max(left, right), new_id)
            pieces = self.tokenizer.pieces
            self.assertEqual(pieces[new_id], pieces[left] + pieces[right])

    def test_counts_pairs_as_a_recount_would(self):
        """Each merge is the most frequent pair of the words as they then stand."""
        tokenizer = self.tokenizer
        words = [list(word.encode()) for text in TEXTS for word in tokenizer_bpe.split_words(text)]
        first = tokenizer.vocab_size - len(tokenizer.merges)
        id_of = {tokenizer.pieces[i][0]: i for i in range(first - 256, first)}
        words = [[id_of[byte] for byte in word] for word in words]
        for new_id, merge in enumerate(tokenizer.merges, first):
            counts = {}
            for word in words:
                for pair in zip(word, word[1:]):
                    counts[pair] = counts.get(pair, 0) + 1
            best = min(counts, key=lambda pair: (-counts[pair], pair))
            self.assertEqual(merge, best)
            for word in words:
                i = 0
                while i < len(word) - 1:
                    if (word[i], word[i + 1]) == merge:
                        word[i : i + 2] = [new_id]
                    i += 1

    def test_stops_when_no_pair_occurs_twice(self):
        self.assertEqual(tokenizer_bpe.train(["abc"], 400).merges, [])

    def test_refuses_fewer_pieces_than_bytes(self):
        with self.assertRaisesRegex(ValueError, "vocab_size 100"):
            tokenizer_bpe.train(TEXTS, 100)


class EncodeAndDecode(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tokenizer = tokenizer_bpe.train(TEXTS, 320)

    def test_random_text_round_trips(self):
        seed = time.time_ns()
        print("seed", seed)
        rng = random.Random(seed)
        for _ in range(500):
            text = "".join(rng.choices(ALPHABET, k=rng.randrange(30)))
            self.assertEqual(self.tokenizer.decode(self.tokenizer.encode(text)), text)

    def test_recognises_added_tokens_in_text(self):
        ids = self.tokenizer.encode("<|im_start|>user\nhi<|im_end|><tool_call>")
        self.assertEqual([i for i in ids if i < 16], [1, 2, 3])
        self.assertEqual(ids[0], 1)

    def test_plain_encoding_takes_added_tokens_as_characters(self):
        self.assertTrue(all(i >= 16 for i in self.tokenizer.encode_plain("<|endoftext|>")))

    def test_half_a_code_point_decodes_to_a_replacement_character(self):
        ids = self.tokenizer.encode_plain("\u20ac")
        self.assertGreater(len(ids), 1)
        self.assertEqual(self.tokenizer.decode(ids[:1]), "\ufffd")


class TokenizerJson(unittest.TestCase):
    def test_loads_back_as_the_same_tokenizer(self):
        tokenizer = tokenizer_bpe.train(TEXTS, 320)
        again = tokenizer_bpe.Tokenizer.from_json(json.loads(tokenizer.to_text()))
        self.assertEqual(again.pieces, tokenizer.pieces)
        self.assertEqual(again.merges, tokenizer.merges)

    def test_writes_space_as_hugging_face_does(self):
        model = tokenizer_bpe.train(TEXTS, 320).to_json()["model"]
        self.assertIn("Ġheight", model["vocab"])
        self.assertIn("):Ċ", model["vocab"])

    def test_refuses_other_added_tokens(self):
        contents = tokenizer_bpe.train(TEXTS, 272).to_json()
        contents["added_tokens"].pop()
        with self.assertRaisesRegex(ValueError, "added_tokens"):
            tokenizer_bpe.Tokenizer.from_json(contents)


if __name__ == "__main__":
    unittest.main()
