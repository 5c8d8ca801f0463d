"""The safetensors file format: 8 bytes of header length, a JSON header, then the tensors' bytes.

Header: name -> {"dtype", "shape", "data_offsets": [begin, end)}, offsets counted from the end of
the header; little-endian, row-major. Only the dtypes that numpy has are known here.
"""

import json
import math
import os
import struct

import numpy as np

_DTYPES = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8"),
           "U8": np.dtype("u1"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8")}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def save(path, tensors, metadata=None):
    """Writes numpy arrays by name. The file appears whole or not at all."""
    header, offset = {}, 0
    if metadata:
        header["__metadata__"] = {str(key): str(value) for key, value in metadata.items()}
    arrays = {name: np.ascontiguousarray(array) for name, array in sorted(tensors.items())}
    for name, array in arrays.items():
        if array.dtype not in _NAMES:
            raise ValueError(f"tensor {name!r}: dtype {array.dtype} is not one of {list(_DTYPES)}")
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape),
                        "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    unfinished = f"{path}.unfinished"
    with open(unfinished, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(array.tobytes())
    os.replace(unfinished, path)


def load(path):
    """name -> numpy array. ValueError naming the tensor when the header does not fit the file."""
    with open(path, "rb") as file:
        data = file.read()
    if len(data) < 8:
        raise ValueError(f"{path}: {len(data)} bytes are too few for a safetensors header")
    (length,) = struct.unpack_from("<Q", data)
    if length > len(data) - 8:
        raise ValueError(f"{path}: header of {length} bytes in a file of {len(data)}")
    header, body = json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :]
    header.pop("__metadata__", None)
    return {name: _tensor(path, name, entry, body) for name, entry in header.items()}


def _tensor(path, name, entry, body):
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"{path}: tensor {name!r}: dtype {entry['dtype']} is not known")
    dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    bytes_expected = dtype.itemsize * math.prod(shape)
    if not 0 <= begin <= end <= len(body) or end - begin != bytes_expected:
        raise ValueError(
            f"{path}: tensor {name!r}: shape {shape} needs {bytes_expected} bytes, "
            f"offsets are [{begin}, {end}) of {len(body)}"
        )
    return np.frombuffer(body[begin:end], dtype=dtype).reshape(shape)
