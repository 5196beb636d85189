#!/usr/bin/env python3
"""Makes tests/golden/torch/: small files of torch.save that a reader without torch is tested with.

    python tests/golden/make_torch_checkpoint.py            with torch installed: saved.bin
    python tests/golden/make_torch_checkpoint.py --by_hand  without: by_hand.bin, the same written by helpers/torch_format.py

Element i of each tensor is i / 8 - 4, in the order of the tensor's own indices; int64 tensors hold i.
"""

import argparse
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
TORCH_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "F64": "float64"}
# name: (dtype, shape). `turned` is a transposed view, `part` rows 1 and 2 of `dense`, `again` is `dense`.
DENSE = {"dense": ("F32", [3, 5]), "half": ("F16", [4, 2]), "brain": ("BF16", [2, 3]), "double": ("F64", [3]),
         "ids": ("I64", [3]), "parameter": ("F32", [2]), "scalar": ("F32", []), "empty": ("F32", [0, 4]),
         "large": ("F16", [70, 130])}


def value(i):
    return i / 8 - 4


def save_with_torch(path):
    import collections

    import torch

    tensors = collections.OrderedDict()
    for name, (dtype, shape) in DENSE.items():
        count = int(torch.tensor(shape).prod()) if shape else 1
        numbers = range(count) if dtype == "I64" else [value(i) for i in range(count)]
        tensors[name] = torch.tensor(list(numbers), dtype=getattr(torch, TORCH_DTYPES[dtype])).reshape(shape)
    tensors["parameter"] = torch.nn.Parameter(tensors["parameter"])
    tensors["again"] = tensors["dense"]
    tensors["part"] = tensors["dense"][1:]
    tensors["turned"] = torch.tensor([value(6 * (i % 4) + i // 4) for i in range(24)]).reshape(6, 4).t()
    tensors._metadata = collections.OrderedDict({"": {"version": 1}})
    torch.save(tensors, path)


def save_by_hand(path):
    import struct

    from helpers import torch_format as tf

    def pack(dtype, numbers):
        if dtype == "BF16":
            return b"".join(struct.pack("<f", number)[2:] for number in numbers)
        return struct.pack(f"<{len(numbers)}{ {'F32': 'f', 'F16': 'e', 'F64': 'd', 'I64': 'q'}[dtype]}", *numbers)

    tensors = {}
    for name, (dtype, shape) in DENSE.items():
        count = 1
        for size in shape:
            count *= size
        numbers = list(range(count)) if dtype == "I64" else [value(i) for i in range(count)]
        tensors[name] = tf.Tensor(tf.Storage(dtype, pack(dtype, numbers)), shape, parameter=name == "parameter")
    dense = tensors["dense"].storage
    tensors["again"] = tf.Tensor(dense, [3, 5])
    tensors["part"] = tf.Tensor(dense, [2, 5], offset=5)
    turned = tf.Storage("F32", pack("F32", [value(6 * (i % 4) + i // 4) for i in range(24)]))
    tensors["turned"] = tf.Tensor(turned, [4, 6], strides=[1, 4])
    tf.write(path, tensors)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--by_hand", action="store_true")
    folder = HERE / "torch"
    folder.mkdir(exist_ok=True)
    if parser.parse_args().by_hand:
        save_by_hand(folder / "by_hand.bin")
    else:
        save_with_torch(folder / "saved.bin")


if __name__ == "__main__":
    main()
