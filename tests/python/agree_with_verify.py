"""Compare what docs/examples/read_pack.py rebuilds with what `tessera verify` reports.

usage: agree_with_verify.py PACK SOURCE.gguf REPORT.json

The source is read by the `gguf` package, the pack by the example reader: neither shares code with
tessera. Exits 1, and says why, when a figure differs by more than rounding.
"""

import json
import pathlib
import sys

import gguf
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "docs" / "examples"))
import read_pack

pack, source, report = sys.argv[1:]
rebuilt = read_pack.weights(pack)
tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
checked = 0
for entry in json.load(open(report))["tensors"]:
    # A tied head is made from the embedding.
    tensor = tensors[entry["name"] if entry["name"] in tensors else "token_embd.weight"]
    weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
    values = rebuilt[entry["name"]].astype(np.float64)
    assert values.shape == weights.shape, (entry["name"], values.shape, weights.shape)
    error = np.sqrt(((weights - values) ** 2).sum() / (weights**2).sum())
    norms = np.sqrt((weights**2).sum() * (values**2).sum())
    cosine = (weights * values).sum() / norms
    if abs(error - entry["relative_rms"]) > 1e-5 * error + 1e-8:
        sys.exit(f"{entry['name']}: relative rms {error}, verify says {entry['relative_rms']}")
    if abs(cosine - entry["cosine"]) > 1e-8:
        sys.exit(f"{entry['name']}: cosine {cosine}, verify says {entry['cosine']}")
    checked += 1
assert checked == len(rebuilt), (checked, len(rebuilt))
print(checked)
