#!/usr/bin/env python3
"""Rebuild the weights of a tessera pack, by formats/spec/pack.md alone.

usage: read_pack.py PACK.safetensors | PACK.safetensors.index.json
prints {linear: {"shape": [...], "rms": ...}} as JSON; needs numpy and safetensors
"""

import json
import math
import os
import sys

import numpy as np
from safetensors import safe_open


def files(path):
    """The file, or every file that the index names."""
    if not path.endswith(".index.json"):
        return [path]
    with open(path, encoding="utf-8") as index:
        names = sorted(set(json.load(index)["weight_map"].values()))
    assert all(name == os.path.basename(name) for name in names), "a name outside the folder"
    return [os.path.join(os.path.dirname(path), name) for name in names]


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


def weights(path):
    """Linear's name -> float32 [N, K], or [E, N, K] for experts."""
    stored, inputs, linears = {}, {}, []
    for name in files(path):
        shard = safe_open(name, "numpy")
        manifest = json.loads(shard.metadata()["tessera"])
        assert manifest["format"] == "tessera-pack" and manifest["version"] == [1, 0]
        stored.update((key, shard) for key in shard.keys())
        inputs.update((entry["name"], entry) for entry in manifest["inputs"])
        linears += manifest["linears"]
    read = lambda name: stored[name].get_tensor(name)
    result = {}
    for linear in linears:
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
        result[linear["name"]] = w if "experts" in linear else w[0]
    return result


if __name__ == "__main__":
    print(json.dumps({name: {"shape": w.shape, "rms": math.sqrt(np.mean(np.square(w, dtype="f8")))}
                      for name, w in weights(sys.argv[1]).items()}, indent=1))
