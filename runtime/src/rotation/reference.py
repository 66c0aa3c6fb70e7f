#!/usr/bin/env python3
"""Prints the vectors that the tests of signs.rs and tests.rs hold, from docs/rotation.md alone.

ChaCha8 is written from its definition (D. J. Bernstein, "ChaCha, a variant of Salsa20", 2008). The
arithmetic is Python's f64, rounded to f32 after every operation: for one sum or product of two f32
that is the correctly rounded f32 result.
"""
import hashlib
import math
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


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def sylvester(x, order):
    h = 1
    while h < order:
        for i in range(len(x)):
            if i // h % 2 == 0:
                x[i], x[i + h] = f32(x[i] + x[i + h]), f32(x[i] - x[i + h])
        h *= 2


def legendre(a, q):
    return (pow(a, (q - 1) // 2, q) + 1) % q - 1


def paley1(m):
    def entry(i, j):
        return 1 if i == 0 or i == j else -1 if j == 0 else legendre(i - j, m - 1)

    return [[entry(i, j) for j in range(m)] for i in range(m)]


def paley2(m):
    def entry(i, j):
        if i // 2 == j // 2:
            return 1 if i % 2 == j % 2 == 0 else -1
        sign = -1 if i % 2 == j % 2 == 1 else 1
        return sign if i < 2 or j < 2 else sign * legendre(i // 2 - j // 2, m // 2 - 1)

    return [[entry(i, j) for j in range(m)] for i in range(m)]


def paley_product(x, matrix, scale):
    def group(signs, x):
        flip = signs[0]
        total = x[0]
        for sign, element in zip(signs[1:], x[1:]):
            total = f32(total + sign * flip * element)
        return flip * total

    result = []
    for row in matrix:
        groups = [group(row[l : l + 4], x[l : l + 4]) for l in range(0, len(x), 4)]
        total = groups[0]
        for term in groups[1:]:
            total = f32(total + term)
        result.append(f32(total * scale))
    return result


def hartley_product(x, p, scale):
    m = len(x)
    half = m // 2
    even = [f32(x[l] + x[m - l]) for l in range(1, half + 1)]
    odd = [f32(x[l] - x[m - l]) for l in range(1, half + 1)]
    total = x[0]
    for e in even:
        total = f32(total + e)
    result = [f32(total * scale)] + [0.0] * (m - 1)
    for i in range(1, half + 1):
        angles = [math.tau * (i * l % m) / m for l in range(1, half + 1)]
        a, b = f32(x[0] * scale), None
        for angle, e, o in zip(angles, even, odd):
            a = f32(a + f32(f32(math.cos(angle) / math.sqrt(m * p)) * e))
            term = f32(f32(math.sin(angle) / math.sqrt(m * p)) * o)
            b = term if b is None else f32(b + term)
        result[i], result[m - i] = f32(a + b), f32(a - b)
    return result


def rotate(x, vector, kind, m, p):
    x = [f32(a * b) for a, b in zip(x, vector)]
    sylvester(x, p)
    scale = f32(1 / math.sqrt(m * p))
    if kind == "sylvester":
        return [f32(a * scale) for a in x]
    matrix = {"paley1": paley1, "paley2": paley2}.get(kind, lambda m: None)(m)
    for j in range(p):
        column = x[j::p]
        x[j::p] = paley_product(column, matrix, scale) if matrix else hartley_product(column, p, scale)
    return x


def golden(kind, m, p):
    k = m * p
    x = [(i * 37 % 1009 - 504) / 64 for i in range(k)]
    vector = [(1 if s == "+" else -1) * (8 + i % 7) / 8 for i, s in enumerate(signs(1, "golden", k))]
    return hashlib.sha256(struct.pack(f"<{k}f", *rotate(x, vector, kind, m, p))).hexdigest()


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

for kind, m, p in (
    ("sylvester", 1, 4),
    ("sylvester", 1, 4096),
    ("paley1", 12, 1),
    ("paley1", 20, 16),
    ("paley1", 44, 8),
    ("paley2", 36, 32),
    ("paley2", 28, 128),
    ("hartley", 43, 4),
    ("hartley", 43, 8),
    ("hartley", 43, 16),
    ("hartley", 33, 1),
):
    print(f'        ({m * p}, "{golden(kind, m, p)}"),  // {kind} {m} × {p}')
