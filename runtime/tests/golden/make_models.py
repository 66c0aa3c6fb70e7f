"""Writes the tiny random-weight models of this folder: one GGUF per graph feature.

    python make_models.py OUT_DIR

Needs numpy and gguf (PyPI). The files are the same bytes on every run: the weights are uniform numbers from
PCG64's raw output, seeded by the model's name.
"""

import sys
import zlib
from pathlib import Path

import gguf
import numpy as np


class Weights:
    """Uniform random numbers with a given standard deviation, the same on every platform."""

    def __init__(self, name):
        self.bits = np.random.PCG64(zlib.crc32(name.encode()))

    def __call__(self, *shape, std, mean=0.0):
        raw = self.bits.random_raw(int(np.prod(shape))) >> 40
        unit = raw.astype(np.float64) / 2**24 - 0.5
        return (mean + unit * (12**0.5 * std)).astype(np.float32).reshape(shape)


def vocabulary(size):
    """`size` SPM pieces: specials, the line feed's byte, the space, printable ASCII, then pairs of letters."""
    pieces = ["<unk>", "<s>", "</s>", "<0x0A>", "▁"] + [chr(c) for c in range(33, 127)]
    letters = "etaoinshr"
    pieces += ["▁" + a for a in letters] + [a + b for a in letters for b in letters]
    pieces = pieces[:size]
    assert len(pieces) == size
    kinds = [2, 3, 3, 6] + [1] * (size - 4)
    return pieces, [-float(i) for i in range(size)], kinds


def write(
    out,
    name,
    arch,
    keys,
    *,
    vocab=128,
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=None,  # None: width / heads, and no key_length in the file
    ff=48,
    context=256,
    rope_dims="head",  # None: no rope.dimension_count in the file
    tied=False,
    embedding_std=1.0,
    norm_mean=1.0,
    fused=False,
    qkv_bias=False,
    attention_bias=False,
    ffn_bias=False,
    output_bias=False,
    head_norms=False,  # q and k norms over each head
    wide_norms=False,  # q and k norms over all heads
    pre_norms=True,
    post_norms=False,
    experts=0,
    expert_ff=None,
    shared_ff=0,
    shared_gate=False,
    rope_factors=None,  # name -> function of the number of pairs
):
    weights = Weights(name)
    dim = head_dim or width // heads
    q, kv = heads * dim, kv_heads * dim
    file = gguf.GGUFWriter(out / f"{name}.gguf", arch)
    # llama.cpp looks for architectures' names in general.name: it stays neutral.
    file.add_name("random weights")
    base = {
        "context_length": context,
        "embedding_length": width,
        "block_count": layers,
        "feed_forward_length": ff,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
    if head_dim:
        base |= {"attention.key_length": dim, "attention.value_length": dim}
    if rope_dims:
        base["rope.dimension_count"] = dim if rope_dims == "head" else rope_dims
    for key, value in (base | keys).items():
        key = f"{arch}.{key}"
        if isinstance(value, bool):
            file.add_bool(key, value)
        elif isinstance(value, int):
            file.add_uint32(key, value)
        elif isinstance(value, float):
            file.add_float32(key, value)
        elif isinstance(value, str):
            file.add_string(key, value)
        else:
            file.add_array(key, value)
    pieces, scores, kinds = vocabulary(vocab)
    file.add_tokenizer_model("llama")
    file.add_token_list(pieces)
    file.add_token_scores(scores)
    file.add_token_types(kinds)
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    file.add_unk_token_id(0)
    file.add_add_bos_token(True)

    tensor = file.add_tensor

    def matrix(tensor_name, rows, columns, gain=1.0, stack=()):
        tensor(tensor_name, weights(*stack, rows, columns, std=gain / columns**0.5))

    def bias(tensor_name, size):
        tensor(tensor_name, weights(size, std=0.3))

    def norm(tensor_name, size):
        tensor(tensor_name, weights(size, std=0.2, mean=norm_mean))

    tensor("token_embd.weight", weights(vocab, width, std=embedding_std))
    for function_name, function in (rope_factors or {}).items():
        pairs = (dim if rope_dims in ("head", None) else rope_dims) // 2
        tensor(f"{function_name}.weight", np.array([function(i, pairs) for i in range(pairs)], np.float32))
    for layer in range(layers):
        b = f"blk.{layer}."
        if pre_norms:
            norm(b + "attn_norm.weight", width)
        if fused:
            matrix(b + "attn_qkv.weight", q + 2 * kv, width, 1.2)
        else:
            matrix(b + "attn_q.weight", q, width, 1.2)
            matrix(b + "attn_k.weight", kv, width, 1.2)
            matrix(b + "attn_v.weight", kv, width, 1.5)
        if qkv_bias:
            bias(b + "attn_q.bias", q)
            bias(b + "attn_k.bias", kv)
            bias(b + "attn_v.bias", kv)
        if head_norms:
            norm(b + "attn_q_norm.weight", dim)
            norm(b + "attn_k_norm.weight", dim)
        if wide_norms:
            norm(b + "attn_q_norm.weight", q)
            norm(b + "attn_k_norm.weight", kv)
        matrix(b + "attn_output.weight", width, q, 1.5)
        if attention_bias:
            bias(b + "attn_output.bias", width)
        if post_norms:
            norm(b + "post_attention_norm.weight", width)
        if pre_norms:
            norm(b + "ffn_norm.weight", width)
        if experts:
            size = expert_ff or ff
            matrix(b + "ffn_gate_inp.weight", experts, width, 2.0)
            matrix(b + "ffn_gate_exps.weight", size, width, 1.5, (experts,))
            matrix(b + "ffn_up_exps.weight", size, width, 1.5, (experts,))
            matrix(b + "ffn_down_exps.weight", width, size, 1.5, (experts,))
            if shared_gate:
                tensor(b + "ffn_gate_inp_shexp.weight", weights(width, std=1.5 / width**0.5))
            if shared_ff:
                matrix(b + "ffn_gate_shexp.weight", shared_ff, width, 1.5)
                matrix(b + "ffn_up_shexp.weight", shared_ff, width, 1.5)
                matrix(b + "ffn_down_shexp.weight", width, shared_ff, 1.5)
        elif fused:
            matrix(b + "ffn_up.weight", 2 * ff, width, 1.5)
            matrix(b + "ffn_down.weight", width, ff, 1.5)
        else:
            matrix(b + "ffn_gate.weight", ff, width, 1.5)
            matrix(b + "ffn_up.weight", ff, width, 1.5)
            matrix(b + "ffn_down.weight", width, ff, 1.5)
            if ffn_bias:
                bias(b + "ffn_gate.bias", ff)
                bias(b + "ffn_up.bias", ff)
                bias(b + "ffn_down.bias", width)
        if post_norms:
            norm(b + "post_ffw_norm.weight", width)
    norm("output_norm.weight", width)
    if not tied:
        matrix("output.weight", vocab, width, 2.5)
    if output_bias:
        bias("output.bias", vocab)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


def llama3_factor(i, pairs):
    """The shape of Llama 3's factors: 1 for fast pairs, 8 for slow ones, between them a ramp."""
    ramp = min(1.0, max(0.0, (i - pairs / 4) / (pairs / 4)))
    return 1.0 + 7.0 * ramp


def models(out):
    def yarn(factor, original):
        return {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": factor,
            "rope.scaling.original_context_length": original,
        }

    tied = {"tied": True, "embedding_std": 0.4}
    longrope = {
        "rope_factors_long": lambda i, pairs: 1.0 + 3.0 * i / pairs,
        "rope_factors_short": lambda i, pairs: 1.0 + 0.5 * i / pairs,
    }

    write(out, "llama", "llama", {"rope.freq_base": 10000.0}, width=48, heads=6, ff=32, vocab=131)
    write(
        out,
        "llama-rope-freqs",
        "llama",
        {"rope.freq_base": 500000.0},
        head_dim=16,
        rope_factors={"rope_freqs": llama3_factor},
        **tied,
    )
    write(
        out,
        "llama-linear",
        "llama",
        {"rope.freq_base": 10000.0, "rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        rope_dims=None,
        **tied,
    )
    wide = {"heads": 2, "kv_heads": 1, "head_dim": 32, **tied}
    write(out, "llama-yarn", "llama", {"rope.freq_base": 10000.0, **yarn(4.0, 512)}, **wide)
    write(
        out,
        "llama-yarn-attn-factor",
        "llama",
        {"rope.freq_base": 10000.0, **yarn(8.0, 128), "rope.scaling.attn_factor": 0.8},
        **wide,
    )
    write(
        out,
        "llama-biases",
        "llama",
        {},
        qkv_bias=True,
        attention_bias=True,
        ffn_bias=True,
        **tied,
    )
    write(
        out,
        "llama-moe",
        "llama",
        {"expert_count": 4, "expert_used_count": 2, "rope.freq_base": 1000000.0},
        experts=4,
        ff=24,
        **tied,
    )
    write(out, "qwen2", "qwen2", {"rope.freq_base": 1000000.0}, qkv_bias=True, rope_dims=None)
    write(
        out,
        "qwen3",
        "qwen3",
        {"rope.freq_base": 1000000.0},
        head_norms=True,
        head_dim=12,
        norm_mean=1.3,
        rope_dims=None,
        **tied,
    )
    write(
        out,
        "qwen3moe",
        "qwen3moe",
        {
            "rope.freq_base": 1000000.0,
            "expert_count": 8,
            "expert_used_count": 3,
            "expert_feed_forward_length": 16,
        },
        head_norms=True,
        head_dim=12,
        norm_mean=1.3,
        experts=8,
        expert_ff=16,
        rope_dims=None,
        **tied,
    )
    write(
        out,
        "qwen2moe",
        "qwen2moe",
        {
            "rope.freq_base": 1000000.0,
            "expert_count": 6,
            "expert_used_count": 2,
            "expert_feed_forward_length": 16,
            "expert_shared_feed_forward_length": 24,
        },
        qkv_bias=True,
        experts=6,
        expert_ff=16,
        shared_ff=24,
        shared_gate=True,
        rope_dims=None,
    )
    # The window is in the file and llama.cpp does not apply it.
    write(out, "phi3", "phi3", {"rope.freq_base": 10000.0, "attention.sliding_window": 16}, fused=True)
    # Rotates 6 of 8 dimensions; the context llama.cpp runs with (256) is not above 4096: short factors.
    write(
        out,
        "phi3-longrope-short",
        "phi3",
        {
            "rope.freq_base": 10000.0,
            "rope.scaling.original_context_length": 4096,
            "rope.scaling.attn_factor": 1.19,
        },
        context=16384,
        rope_dims=6,
        fused=True,
        rope_factors=longrope,
        **tied,
    )
    # Both the context (256) and the sequence (64) are above 32: long factors.
    write(
        out,
        "phi3-longrope-long",
        "phi3",
        {
            "rope.freq_base": 10000.0,
            "rope.scaling.original_context_length": 32,
            "rope.scaling.attn_factor": 1.19,
        },
        fused=True,
        rope_factors=longrope,
        **tied,
    )
    gemma = {"embedding_std": 0.35, "tied": True, "rope_dims": None}
    gemma3 = {
        "layers": 7,
        "heads": 2,
        "kv_heads": 1,
        "head_dim": 32,
        "ff": 24,
        "head_norms": True,
        "post_norms": True,
        **gemma,
    }
    window = {"attention.sliding_window": 16, "rope.freq_base": 1000000.0}
    write(out, "gemma3", "gemma3", window, **gemma3)
    write(
        out,
        "gemma3-linear",
        "gemma3",
        {
            **window,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
            "attention.sliding_window_pattern": 3,
            "rope.freq_base_swa": 5000.0,
            "final_logit_softcapping": 4.0,
        },
        **(gemma3 | {"layers": 3}),
    )
    write(
        out,
        "gemma2",
        "gemma2",
        {
            "attention.sliding_window": 16,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 4.0,
        },
        layers=3,
        head_dim=12,
        post_norms=True,
        **gemma,
    )
    write(out, "gemma", "gemma", {}, head_dim=16, kv_heads=1, **gemma)
    scales = {
        "embedding_scale": 1.6,
        "residual_scale": 0.6,
        "attention.scale": 0.25,
        "logit_scale": 0.5,
        "rope.freq_base": 10000.0,
    }
    write(out, "granite", "granite", scales, **tied)
    write(
        out,
        "granitemoe",
        "granitemoe",
        {
            **scales,
            "expert_count": 5,
            "expert_used_count": 2,
            "expert_shared_feed_forward_length": 20,
        },
        experts=5,
        ff=16,
        shared_ff=20,
        **tied,
    )
    write(out, "smollm3", "smollm3", {"rope.freq_base": 10000.0}, layers=5, ff=24, **tied)
    write(
        out,
        "mistral3",
        "mistral3",
        {
            "rope.freq_base": 10000.0,
            **yarn(4.0, 16),
            "rope.scaling.yarn_beta_fast": 4.0,
            "rope.scaling.yarn_beta_slow": 0.5,
            "rope.scaling.yarn_log_multiplier": 0.5,
            "attention.temperature_scale": 0.3,
        },
        **wide,
    )
    write(
        out,
        "olmo2",
        "olmo2",
        {"rope.freq_base": 500000.0},
        wide_norms=True,
        pre_norms=False,
        post_norms=True,
        rope_dims=None,
    )
    # Every fourth layer sees the whole context and is rotated by YaRN, the others neither.
    write(
        out,
        "olmo2-window",
        "olmo2",
        {"rope.freq_base": 500000.0, "attention.sliding_window": 16, **yarn(8.0, 32)},
        layers=4,
        ff=24,
        wide_norms=True,
        pre_norms=False,
        post_norms=True,
        rope_dims=None,
    )
    # llama.cpp wants as many key heads as query heads here.
    write(
        out,
        "olmoe",
        "olmoe",
        {"rope.freq_base": 10000.0, "expert_count": 6, "expert_used_count": 3},
        kv_heads=4,
        experts=6,
        ff=12,
        wide_norms=True,
        rope_dims=None,
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_models.py OUT_DIR")
    models(Path(sys.argv[1]))
