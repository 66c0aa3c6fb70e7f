// Golden vectors of rk-llama.cpp's sign generator and Hadamard transform, from the C++ library
// itself: `std::hash<std::string>`, `std::mt19937`, `std::uniform_int_distribution` of libstdc++.
//
//     g++ -O2 -std=c++17 -ffp-contract=off rk_llama.cpp -o rk_llama && ./rk_llama > rk_llama.json
//
// Needs libstdc++ of GCC 11 or newer (older ones draw 0/1 by division) on a 64-bit little-endian
// machine. `rk_llama.json` was made with g++ 12.2.0.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

static uint64_t fnv1a(const void * data, size_t bytes) {
    const unsigned char * byte = static_cast<const unsigned char *>(data);
    uint64_t hash = 0xcbf29ce484222325ull;
    for (size_t i = 0; i < bytes; ++i) {
        hash = (hash ^ byte[i]) * 0x100000001b3ull;
    }
    return hash;
}

static std::vector<float> draw_signs(const std::string & name, size_t count) {
    std::mt19937 generator(static_cast<uint32_t>(std::hash<std::string>{}(name)));
    std::uniform_int_distribution<int> coin(0, 1);
    std::vector<float> signs;
    for (size_t i = 0; i < count; ++i) {
        signs.push_back(coin(generator) == 0 ? -1.0f : 1.0f);
    }
    return signs;
}

// A row of floats whose bits are drawn directly, so that any language can draw the same: sign and
// mantissa uniform, exponent uniform over 2^-16 .. 2^15, every 16th element a zero of either sign.
static std::vector<float> draw_row(uint64_t seed, size_t count) {
    std::vector<float> row(count);
    for (size_t i = 0; i < count; ++i) {
        uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15ull;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        z = z ^ (z >> 31);
        const uint32_t exponent = 111 + static_cast<uint32_t>((z >> 40) & 31);
        uint32_t bits = (static_cast<uint32_t>(z >> 32) & 0x80000000u) | (exponent << 23) |
                        (static_cast<uint32_t>(z) & 0x007fffffu);
        if (i % 16 == 7) {
            bits &= 0x80000000u;
        }
        std::memcpy(&row[i], &bits, sizeof bits);
    }
    return row;
}

// y = H (s * pad0(x)), H[i][j] = (-1)^popcount(i & j), by butterflies of growing stride.
static std::vector<float> rotate(const std::vector<float> & row, const std::vector<float> & signs) {
    std::vector<float> out(signs.size(), 0.0f);
    for (size_t k = 0; k < row.size(); ++k) {
        out[k] = row[k] * signs[k];
    }
    for (size_t stride = 1; stride < out.size(); stride *= 2) {
        for (size_t i = 0; i < out.size(); ++i) {
            if ((i & stride) == 0) {
                const float a = out[i], b = out[i + stride];
                out[i] = a + b;
                out[i + stride] = a - b;
            }
        }
    }
    return out;
}

int main() {
    const char * names[] = {
        "blk.0.attn_q.weight", "blk.0.ffn_down.weight", "output.weight", "token_embd.weight",
        "", "a", "1234567", "12345678", "123456789", "blk.31.ffn_gate.weight",
        "blk.127.attn_output.weight", "v.blk.3.attn_k.weight", "Größe-层",
    };
    const size_t lengths[] = { 32, 8192 };
    const size_t inner[] = { 1, 2, 3, 7, 8, 32, 576, 1152, 2048, 2560, 4096, 8960, 18944 };

    std::printf("{\n  \"signs\": [\n");
    const size_t name_count = sizeof names / sizeof *names;
    for (size_t n = 0; n < name_count; ++n) {
        const std::string name = names[n];
        std::string first;
        for (float sign : draw_signs(name, lengths[0])) {
            first += sign < 0 ? '-' : '+';
        }
        std::string all;
        for (float sign : draw_signs(name, lengths[1])) {
            all += sign < 0 ? '-' : '+';
        }
        std::printf("    {\"name\": \"%s\", \"hash\": \"%016llx\", \"first\": \"%s\", \"count\": %zu, \"fnv1a\": \"%016llx\"}%s\n",
                    name.c_str(), (unsigned long long) std::hash<std::string>{}(name), first.c_str(),
                    all.size(), (unsigned long long) fnv1a(all.data(), all.size()),
                    n + 1 < name_count ? "," : "");
    }
    std::printf("  ],\n  \"rows\": [\n");
    const size_t inner_count = sizeof inner / sizeof *inner;
    for (size_t i = 0; i < inner_count; ++i) {
        const size_t k = inner[i];
        size_t size = 1;
        while (size < k) {
            size *= 2;
        }
        const std::string name = "blk." + std::to_string(i) + ".ffn_down.weight";
        const std::vector<float> out = rotate(draw_row(1000 + i, k), draw_signs(name, size));
        std::printf("    {\"name\": \"%s\", \"seed\": %zu, \"k\": %zu, \"size\": %zu, \"fnv1a\": \"%016llx\"}%s\n",
                    name.c_str(), 1000 + i, k, size,
                    (unsigned long long) fnv1a(out.data(), out.size() * sizeof(float)),
                    i + 1 < inner_count ? "," : "");
    }
    std::printf("  ]\n}\n");
    return 0;
}
