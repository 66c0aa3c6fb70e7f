#!/usr/bin/env python3
"""Rebuild the weights of a tessera pack, by formats/spec/pack.md alone.

usage: read_pack.py PACK.safetensors | PACK.safetensors.index.json
prints {linear: {"shape": [...], "rms": ...}} as JSON; needs numpy
"""

import json
import math
import os
import sys

import numpy as np

DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I8": "i1", "U8": "u1"}


def files(path):
    """The file, or every file that the index names."""
    if not path.endswith(".index.json"):
        return [path]
    with open(path, encoding="utf-8") as index:
        names = sorted(set(json.load(index)["weight_map"].values()))
    assert all(name == os.path.basename(name) for name in names), "a name outside the folder"
    return [os.path.join(os.path.dirname(path), name) for name in names]


def header(path):
    """Manifest of a file, and where its tensors are: name -> (path, offset, dtype, shape)."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    manifest = json.loads(entries.pop("__metadata__")["tessera"])
    assert manifest["format"] == "tessera-pack" and manifest["version"] in ([1, 0], [1, 1], [1, 2])
    start = 8 + length
    return manifest, {name: (path, start + entry["data_offsets"][0], entry["dtype"], entry["shape"])
                      for name, entry in entries.items()}


def tensor(path, offset, dtype, shape):
    """The tensor as an array; BF16, which numpy does not know, as float32."""
    array = np.fromfile(path, DTYPES[dtype], math.prod(shape), offset=offset).reshape(shape)
    return (array.astype("<u4") << 16).view("<f4") if dtype == "BF16" else array


def untile(tiles, experts):
    """Tiles [(E,) N/sN, K/32, sN, 32] (int4: 16 bytes) as integers or halves [E, N, K]."""
    if tiles.dtype == np.uint8:  # int4: two's complement, even k in the low nibble
        pairs = np.stack([tiles & 15, tiles >> 4], axis=-1).reshape(*tiles.shape[:-1], 32)
        tiles = (pairs ^ 8).astype(np.int8) - 8
    panels, runs, rows, _ = tiles.shape[-4:]
    tiles = tiles.reshape(experts, panels, runs, rows, 32)
    return tiles.transpose(0, 1, 3, 2, 4).reshape(experts, panels * rows, runs * 32)


def unrotate(rows, rotation, factor):
    """x @ R for every row x, R = I (x) (F (x) S): the inverse of row -> R row."""
    order, sylvester = len(factor), rotation["sylvester"]
    x = rows.reshape(-1, order, sylvester)
    half = 1
    while half < sylvester:  # fast Walsh-Hadamard transform
        x = x.reshape(-1, 2, half)
        x = np.stack([x[:, 0] + x[:, 1], x[:, 0] - x[:, 1]], axis=1)
        half *= 2
    x = x.reshape(-1, order, sylvester) / np.float32(math.sqrt(sylvester))
    return np.einsum("bij,ik->bkj", x, factor).reshape(rows.shape)


def linears(path):
    """Linear's name -> float32 weights [N, K], or [E, N, K] for experts, and what is added to its
    outputs: float32 [N] or [E, N], or None."""
    stored, inputs, entries, result = {}, {}, [], {}
    for name in files(path):
        manifest, tensors = header(name)
        stored.update(tensors)
        inputs.update((entry["name"], entry) for entry in manifest["inputs"])
        entries += manifest["linears"]
    read = lambda name: tensor(*stored[name])
    for linear in entries:
        n, experts, entry = linear["n"], linear.get("experts", 1), inputs[linear["input"]]
        count = len(linear["segments"]) if linear["granularity"] == "channel" else 1
        scale = np.broadcast_to(read(linear["scale"]).reshape(experts, count, -1),
                                (experts, len(linear["segments"]), n))
        rows = [untile(read(segment["tiles"]), experts)[:, :n].astype(np.float32)
                * scale[:, s, :, None] for s, segment in enumerate(linear["segments"])]
        rotation = entry["rotation"]
        factor = read(rotation["factor"]["tensor"]) if "factor" in rotation else np.eye(1, dtype="f4")
        w = unrotate(np.concatenate(rows, axis=2)[:, :, :rotation["size"]], rotation, factor)
        w = w[:, :, :linear["k"]] * (read(entry["vector"]) if "vector" in entry else np.float32(1))
        correction = read(linear["correction"]) if "correction" in linear else None
        result[linear["name"]] = w if "experts" in linear else w[0], correction
    return result


def weights(path):
    """Linear's name -> float32 weights."""
    return {name: w for name, (w, _) in linears(path).items()}


if __name__ == "__main__":
    print(json.dumps({name: {"shape": w.shape, "rms": math.sqrt(np.mean(np.square(w, dtype="f8")))}
                      for name, w in weights(sys.argv[1]).items()}, indent=1))
