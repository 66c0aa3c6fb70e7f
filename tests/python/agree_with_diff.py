"""Compare what docs/examples/read_pack.py rebuilds of two files with what `tessera diff` reports.

usage: agree_with_diff.py A B REPORT.json

GGUF files are read by the `gguf` package, packs by the example reader: neither shares code with
tessera. Exits 1, and says why, when a figure differs by more than rounding; prints how many were
compared.
"""

import json
import pathlib
import sys

import gguf
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "docs" / "examples"))
import read_pack


def rebuilt(path):
    """Weights of a file by name; of a pack those of its linears."""
    if not path.endswith(".gguf"):
        return read_pack.weights(path)
    tensors = gguf.GGUFReader(path).tensors
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in tensors}


a, b, report = sys.argv[1:]
of_a, of_b = rebuilt(a), rebuilt(b)
compared = 0
for entry in json.load(open(report))["tensors"]:
    if entry["a"]["name"] not in of_a or entry["b"]["name"] not in of_b:
        continue
    x = of_a[entry["a"]["name"]].astype(np.float64)
    y = of_b[entry["b"]["name"]].astype(np.float64)
    assert list(x.shape) == list(y.shape) == entry["a"]["shape"], (entry["name"], x.shape, y.shape)
    error = np.sqrt(((x - y) ** 2).sum() / (x**2).sum())
    cosine = (x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum())
    if abs(error - entry["relative_rms"]) > 1e-5 * error + 1e-6:
        sys.exit(f"{entry['name']}: relative rms {error}, diff says {entry['relative_rms']}")
    if abs(cosine - entry["cosine"]) > 1e-8:
        sys.exit(f"{entry['name']}: cosine {cosine}, diff says {entry['cosine']}")
    compared += 1
print(compared)
