#!/usr/bin/env python3
"""Writes dequantize.json: blocks of every ggml type, and what others make of them.

    pip install gguf==0.19.0 numpy
    python make_dequant_goldens.py --ggml path/to/libggml-base.so

The blocks are random bytes under scales that try the edges: zeros of both signs, subnormals, the
largest numbers, negative scales. Nothing in them is NaN, and no product overflows except under the
largest exponent of MXFP4.

What they stand for comes from ggml's C reference, the dequantize_row_* functions of ggml-quants.c
(llama.cpp 0c1e57098: `cmake -B build -DBUILD_SHARED_LIBS=ON -DGGML_NATIVE=OFF`, target
`ggml-base`), and, for every type that it has, from gguf-py, which must agree bit for bit. Types that
only the C code has are Q8_K, Q1_0 and Q2_0.

For each type the file holds the blocks in hexadecimal, the SHA-256 of all their floats
(little-endian, in order) and the bits of the first element of each group of 16, to find a mistake
by.
"""

import argparse
import ctypes
import hashlib
import json
import pathlib

import gguf
import numpy as np

# Elements and bytes of a block, byte offsets of its f16 scales, and the C function.
TYPES = {
    "F16": (1, 2, [], "ggml_fp16_to_fp32_row"),
    "BF16": (1, 2, [], "ggml_bf16_to_fp32_row"),
    "Q4_0": (32, 18, [0], "dequantize_row_q4_0"),
    "Q4_1": (32, 20, [0, 2], "dequantize_row_q4_1"),
    "Q5_0": (32, 22, [0], "dequantize_row_q5_0"),
    "Q5_1": (32, 24, [0, 2], "dequantize_row_q5_1"),
    "Q8_0": (32, 34, [0], "dequantize_row_q8_0"),
    "Q2_K": (256, 84, [80, 82], "dequantize_row_q2_K"),
    "Q3_K": (256, 110, [108], "dequantize_row_q3_K"),
    "Q4_K": (256, 144, [0, 2], "dequantize_row_q4_K"),
    "Q5_K": (256, 176, [0, 2], "dequantize_row_q5_K"),
    "Q6_K": (256, 210, [208], "dequantize_row_q6_K"),
    "Q8_K": (256, 292, [], "dequantize_row_q8_K"),
    "IQ4_NL": (32, 18, [0], "dequantize_row_iq4_nl"),
    "IQ4_XS": (256, 136, [0], "dequantize_row_iq4_xs"),
    "TQ1_0": (256, 54, [52], "dequantize_row_tq1_0"),
    "TQ2_0": (256, 66, [64], "dequantize_row_tq2_0"),
    "MXFP4": (32, 17, [], "dequantize_row_mxfp4"),
    "NVFP4": (64, 36, [], "dequantize_row_nvfp4"),
    "Q1_0": (128, 18, [0], "dequantize_row_q1_0"),
    "Q2_0": (64, 18, [0], "dequantize_row_q2_0"),
}

# Ordinary, negative, smallest and largest subnormal, smallest normal, largest, zeros.
HALVES = [0x2A31, 0xA9C7, 0x0001, 0x83FF, 0x0400, 0xFBFF, 0x7BFF, 0x0000, 0x8000, 0x3C01]
# The same of Q8_K's f32; 127 times the largest is still finite.
SINGLES = [0x3C123457, 0xBC7EDCBA, 0x00000001, 0x807FFFFF, 0x00800000, 0x7B7FFFFF, 0x80000000]
E8M0 = [127, 120, 0, 1, 2, 254, 255]
E4M3 = [0x00, 0x01, 0x07, 0x08, 0x38, 0x4D, 0x7E, 0x7F, 0x80, 0x87, 0xC3, 0xFF]


def blocks_of(name, random):
    elements, size, scales, _ = TYPES[name]
    if name in ("F16", "BF16"):
        # All exponents but the one of NaN, all signs; infinities.
        bits = np.arange(0, 1 << 16, 61, dtype=np.uint32).astype("<u2")
        fraction, infinity = (0x3FF, 0x7C00) if name == "F16" else (0x7F, 0x7F80)
        nan = (bits & infinity == infinity) & (bits & fraction != 0)
        edges = np.array([1, fraction, infinity, infinity | 0x8000, 0x8001], dtype="<u2")
        return np.concatenate([bits[~nan], edges]).view(np.uint8).reshape(-1, 2)
    count = 10 if elements < 256 else 7
    if name == "Q8_K":
        count = len(SINGLES)
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    for index, block in enumerate(blocks):
        for position, offset in enumerate(scales):
            bits = HALVES[(index * (2 * position + 1) + 3 * position) % len(HALVES)]
            block[offset : offset + 2] = np.frombuffer(np.uint16(bits).tobytes(), np.uint8)
        if name == "Q8_K":
            block[:4] = np.frombuffer(np.uint32(SINGLES[index]).tobytes(), np.uint8)
        if name == "MXFP4":
            block[0] = E8M0[index % len(E8M0)]
        if name == "NVFP4":
            block[:4] = [E4M3[(4 * index + i) % len(E4M3)] for i in range(4)]
    return blocks


def floats_of(name, blocks, library):
    elements, _, _, function = TYPES[name]
    floats = np.empty(blocks.shape[0] * elements, dtype="<f4")
    source = np.ascontiguousarray(blocks)
    getattr(library, function)(
        ctypes.c_void_p(source.ctypes.data),
        ctypes.c_void_p(floats.ctypes.data),
        ctypes.c_int64(floats.size),
    )
    return floats


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ggml", required=True, help="libggml-base.so")
    library = ctypes.CDLL(parser.parse_args().ggml)
    known = {kind.name: kind for kind in gguf.GGMLQuantizationType}
    entries = {}
    for name in TYPES:
        blocks = blocks_of(name, np.random.default_rng([20, len(entries)]))
        floats = floats_of(name, blocks, library)
        assert not np.isnan(floats).any(), name
        oracles = ["ggml"]
        try:
            twin = gguf.quants.dequantize(blocks.reshape(-1), known[name])
        except (KeyError, NotImplementedError):
            assert name in ("Q8_K", "Q1_0", "Q2_0"), name
        else:
            twin = np.ascontiguousarray(twin.reshape(-1), dtype="<f4")
            wrong = np.flatnonzero(twin.view("<u4") != floats.view("<u4"))
            assert wrong.size == 0, f"{name}: gguf-py and ggml differ at {wrong[:8]}"
            oracles.append("gguf-py")
        entries[name] = {
            "oracles": oracles,
            "blocks": blocks.tobytes().hex(),
            "sha256": hashlib.sha256(floats.tobytes()).hexdigest(),
            "every_16th": floats[::16].tobytes().hex(),
        }
    path = pathlib.Path(__file__).with_name("dequantize.json")
    path.write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main()
