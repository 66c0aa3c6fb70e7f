"""Compute a pack's golden vectors again, by formats/spec/pack.md and NumPy alone.

usage: golden_vectors.py PACK

Every sum of products is exact, in int64. Prints the number of segments. Exits 1, and says why, when a
hash differs, or when the inputs are not those of the pack's seed.
"""

import hashlib
import pathlib
import struct
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "docs" / "examples"))
import read_pack


def keystream(key, length):
    """ChaCha8 with nonce and first block counter zero."""
    words = np.zeros((16, -(-length // 64)), np.uint32)
    words[:12] = np.frombuffer(b"expand 32-byte k" + key, "<u4")[:, None]
    words[12] = np.arange(words.shape[1])
    state = words.copy()

    def turn(row, bits):
        state[row] = state[row] << np.uint32(bits) | state[row] >> np.uint32(32 - bits)

    def quarter(a, b, c, d):
        for target, source, turned, bits in (a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7):
            state[target] += state[source]
            state[turned] ^= state[target]
            turn(turned, bits)

    for _ in range(4):
        for column in range(4):
            quarter(column, 4 + column, 8 + column, 12 + column)
        for column in range(4):
            quarter(column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    return (state + words).T.astype("<u4").tobytes()[:length]


def rows_of_seed(seed, columns):
    """The rows that tessera stores."""
    random = [np.frombuffer(keystream(hashlib.sha256(
        b"tessera golden v1\0" + struct.pack("<QB", seed, row)).digest(), columns), np.int8)
        for row in range(2)]
    alternating = np.where(np.arange(columns) % 2, -128, 127)
    return np.stack([*random, np.full(columns, -128), alternating])


def operand_range(linear):
    """Least and greatest operand of an integer engine, by section 1."""
    zero_point = linear.get("activation", {}).get("asymmetric", False)
    return {"w8a8": (-128, 127) if zero_point else (-127, 127),
            "w4a4": (-8, 7) if zero_point else (-7, 7), "w4a8": (-8, 7)}[linear["scheme"]]


def results(linear, rows, weights):
    """What the engine gives for weights [E, N, K] of a segment: [E, N, 4]."""
    if linear["scheme"] == "w16a16":
        units = (weights.astype(np.float64) * 2**24).astype(np.int64)  # exact, below 2^40
        sums = np.zeros((*weights.shape[:2], 4), np.float32)
        for start in range(0, weights.shape[2], 32):
            exact = units[:, :, start : start + 32] @ rows[:, start : start + 32].T  # below 2^52
            # v/64 is the operand: 2^24 and 64 are powers of two, so this rounds once.
            sums += (exact.astype(np.float64) / 2**30).astype(np.float32)
        return sums.astype("<f4")
    four = linear["scheme"].startswith("w4")
    operands = np.clip(rows >> 4 if four else rows, *operand_range(linear))
    exact = weights.astype(np.int64) @ operands.T
    return np.clip(exact, -32768, 32767).astype("<i2") if four else exact.astype("<i4")


stored, linears, seed = {}, [], None
for name in read_pack.files(sys.argv[1]):
    manifest, tensors = read_pack.header(name)
    stored.update(tensors)
    linears += manifest["linears"]
    seed = manifest["seed"]
inputs = read_pack.tensor(*stored["golden.inputs"]).astype(np.int64)
assert inputs.shape == (4, max(linear["k_padded"] for linear in linears)), inputs.shape
assert (inputs == rows_of_seed(seed, inputs.shape[1])).all(), "inputs of another seed"
checked = 0
for linear in linears:
    for number, segment in enumerate(linear["segments"]):
        tiles = read_pack.tensor(*stored[segment["tiles"]])
        weights = read_pack.untile(tiles, linear.get("experts", 1))[:, : linear["n"]]
        rows = inputs[:, segment["start"] : segment["start"] + segment["length"]]
        found = hashlib.sha256(results(linear, rows, weights).tobytes()).hexdigest()
        if found != segment["golden"]:
            sys.exit(f"{linear['name']}, segment {number}: {found}, not {segment['golden']}")
        checked += 1
print(checked)
