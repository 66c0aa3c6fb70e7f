#!/usr/bin/env python3
"""Prints the vectors that the test of signs.rs holds: SHA-256 from hashlib, ChaCha8 from its
definition (D. J. Bernstein, "ChaCha, a variant of Salsa20", 2008), nothing else."""
import hashlib
import struct


def chacha8_block(key, counter):
    def quarter(s, a, b, c, d):
        for x, y, z, r in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & 0xFFFFFFFF
            t = s[z] ^ s[x]
            s[z] = (t << r | t >> (32 - r)) & 0xFFFFFFFF

    start = list(struct.unpack("<4I", b"expand 32-byte k")) + list(struct.unpack("<8I", key))
    start += [counter & 0xFFFFFFFF, counter >> 32, 0, 0]
    s = list(start)
    for _ in range(4):
        for a, b, c, d in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)):
            quarter(s, a, b, c, d)
        for a, b, c, d in ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
            quarter(s, a, b, c, d)
    return struct.pack("<16I", *((x + y) & 0xFFFFFFFF for x, y in zip(s, start)))


def signs(seed, name, k):
    key = hashlib.sha256(b"tessera signs v1\0" + struct.pack("<Q", seed) + name.encode()).digest()
    stream = b"".join(chacha8_block(key, n) for n in range(k // 512 + 1))
    return "".join("+" if stream[i // 8] >> i % 8 & 1 else "-" for i in range(k))


# First keystream block of ChaCha8 with a zero key and nonce (test vector TC1 of
# draft-strombergson-chacha-test-vectors-01).
assert chacha8_block(bytes(32), 0).hex().startswith("3e00ef2f895f40d67f5bb8e81f09a5a1")

for seed, name, start in (
    (0, "blk.0.attn_input", 0),
    (1, "blk.0.attn_input", 0),
    (0, "blk.31.ffn_down", 0),
    (0, "blk.31.ffn_down", 4080),
    (2**64 - 1, "größe", 18900),
):
    print(f'        ({seed}, "{name}", {start}, "{signs(seed, name, start + 44)[start:]}"),')
