"""The safetensors format: round trip, layout, and files that lie."""

import json
import os
import struct
import sys
import tempfile
import unittest

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../training"))

from chorale_training import safetensors  # noqa: E402


class Safetensors(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = os.path.join(folder.name, "model.safetensors")

    def write(self, header, body=b""):
        text = json.dumps(header).encode()
        with open(self.path, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text + body)

    def test_tensors_round_trip(self):
        rng = np.random.default_rng(1)
        tensors = {
            "half": rng.standard_normal((3, 5)).astype(np.float16),
            "single": rng.standard_normal((2, 1, 4)).astype(np.float32),
            "count": np.array([1, -2], dtype=np.int64),
            "scalar": np.array(2.5, dtype=np.float32),
            "empty": np.zeros((0, 4), dtype=np.float32),
            "transposed": rng.standard_normal((4, 6)).astype(np.float32).T,
        }
        safetensors.save(self.path, tensors, {"format": "pt"})
        loaded = safetensors.load(self.path)
        self.assertEqual(set(loaded), set(tensors))
        for name, array in tensors.items():
            self.assertEqual(loaded[name].dtype, array.dtype)
            np.testing.assert_array_equal(loaded[name], array)

    def test_header_is_padded_so_that_tensors_are_aligned(self):
        safetensors.save(self.path, {"x": np.zeros(3, dtype=np.float32)})
        with open(self.path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
        self.assertEqual(length % 8, 0)

    def test_refuses_a_dtype_that_the_format_lacks(self):
        with self.assertRaisesRegex(ValueError, "'x'"):
            safetensors.save(self.path, {"x": np.zeros(2, dtype=np.complex64)})

    def test_refuses_a_truncated_file(self):
        safetensors.save(self.path, {"x": np.zeros(100, dtype=np.float32)})
        with open(self.path, "rb") as file:
            whole = file.read()
        for length in (0, 7, 20, len(whole) - 1):
            with open(self.path, "wb") as file:
                file.write(whole[:length])
            with self.assertRaises(ValueError):
                safetensors.load(self.path)

    def test_refuses_offsets_that_do_not_fit_the_shape(self):
        for offsets in ([0, 12], [4, 20], [16, 0], [-16, 0]):
            entry = {"dtype": "F32", "shape": [4], "data_offsets": offsets}
            self.write({"x": entry}, b"\0" * 16)
            with self.assertRaisesRegex(ValueError, "'x'"):
                safetensors.load(self.path)

    def test_refuses_an_unknown_dtype(self):
        self.write({"x": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}, b"\0" * 2)
        with self.assertRaisesRegex(ValueError, "F4"):
            safetensors.load(self.path)


if __name__ == "__main__":
    unittest.main()
