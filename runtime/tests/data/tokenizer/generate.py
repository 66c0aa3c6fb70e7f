#!/usr/bin/env python3
"""Writes the fixtures of the tokenizer's tests, with llama.cpp as the reference.

    generate.py LLAMA_TOKENIZE STORIES260K

LLAMA_TOKENIZE is llama.cpp's tool of that name, STORIES260K the repository's
tests/data/stories260K-Q8_0.gguf. Needs the `gguf` package (0.19.0 was used). Writes beside itself:

- bpe.gguf: a byte-level BPE vocabulary, trained on the texts below;
- texts.inp: the texts, with `\\n__ggml_vocab_test__\\n` after each;
- bpe.out, spm.out: for each value of `tokenizer.ggml.pre` (for SPM `default`) and each way to
  treat special tokens a line `# NAME plain|parse`, then the tokens of each text on a line.
"""

import collections
import pathlib
import subprocess
import sys
import tempfile

import gguf

HERE = pathlib.Path(__file__).parent
SEPARATOR = "\n__ggml_vocab_test__\n"

TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\t\n \n\n",
    "\r\n\r\n",
    "Hello world",
    " Hello  World!",
    "Hello, y'all! How are you 😁 ?我想在apple工作1314151天～",
    "I'll we've they're she'd I'm it's can't DON'T I'LL YOU'RE 's 'S x's",
    "camelCase HTTPServer iPhone McDonald ÉCOLE École éCOLE",
    "1 12 123 1234 12345 123456 1234567 12345678 abc1234567def 3.14159",
    "٣ ٣٤ ٣٤٥٦ 12٣45 ½ ² Ⅷ 一二三 １２３４",
    "    indented\n        more\n\n\n   end   ",
    "trailing spaces    \nand a tab\t\tand nbsp\u00a0\u00a0x\u3000\u3000y\u2028z\u0085w",
    "a\u00a0b\u1680c\u2003\u2003d",
    "#include <stdio.h>\nint main() {\n\treturn a[0] == b->c ? x++ : ~y; // ok?\n}\n",
    "!!! ??? ... --- ___ $$$ +++ === ``` ^^^ ||| ~~~ @@@",
    "(hello) [world] {foo} \"bar\" 'baz' <qux> a/b\\c",
    "日本語のテキスト、漢字とカナ。ﾊﾝｶｸ 한국어 텍스트 ㄱㄴㄷ ㄅㄆ",
    "中文测试，标点。！？：；“引号”（括号）",
    "Ελληνικά Русский עברית العربية हिन्दी ไทย ខ្មែរ မြန်မာ",
    "e\u0301te\u0301 नि กำ a\u0300\u0301\u0302 \u0301x \u0301 1\u0301",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽 ☃️ \U0001f9d1\u200d\U0001f680",
    "zero\u200bwidth \ufeffBOM soft\u00adhyphen \u202ertl\u202c",
    "\x00\x01\x02 \x1b[0m \x7f \x80\x9f",
    "\ue000\uf8ff \U000e0001 \U0010ffff \u0378 \ufffe",
    "<|end|><|im_start|>user\nhi<|im_end|>\n<s>x</s> <fim_prefix> <pad>  <tool> y",
    "<|im_start|> <|im_start|>  z<tool><tool>\n\n<tool>",
    "<sentinel:12> IMGIMGABCDZ IMGIMGAZ <sentinel:>",
    "the quick brown fox jumps over the lazy dog. " * 3,
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    " " * 37 + "x" + " " * 9 + "\n" + " " * 1100,
    "\n" * 7 + " \n \n  \n" + "\t" * 5 + "q",
    "https://example.com/path?x=1&y=%20#frag user@mail.org",
    "Ünïcödé ﬁ ﬂ Ǆ ǅ ǆ ªº ʰ ʼn ĳ ſ K Ω",
    "word1word2 word_3 4word 5-6 7,890,123.45 1e-10 0xFF 10:30 £5 €6",
    " .\n !\n ?\r\n .  \n /path/\n /\r\n",
    "▁underline ▁▁ two _low",
    "x\n\ny \n\nz\n \n w",
    "한 글 띄어 쓰기 ' s' t '' ''' s",
]

PRE = """default llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano dbrx
smaug-bpe chatglm-bpe glm4 glm5 jais-2 minicpm5 deepseek-llm deepseek-coder deepseek-v3
hunyuan-dense hy_v4 joyai-llm spark2_5 youtu falcon starcoder refact command-r smollm codeshell
exaone minerva-7b mellum2 gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum
modern-bert jina-v1-en jina-v2-code roberta-bpe mpt olmo jais exaone4 trillion granite-docling qwen2
deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2 qwen35 poro-chat bloom
gpt3-finnish viking tekken chameleon gpt-4o llama4 kanana2 talkie minimax-m2 granite-embed-multi-97m
tiny_aya cohere2moe superbpe bailingmoe bailingmoe2 llada-moe seed-coder kimi-k2 ufakzeka afmoe
laguna exaone-moe""".split()


CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|end|>", "<s>", "</s>"]
USER_DEFINED = ["<tool>", "<fim_prefix>", "\t\t\t"]
PARSED = ["default", "llama-bpe", "falcon"]


def byte_characters():
    """GPT-2's characters for bytes."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + n) for n, b in enumerate(others)}}


def train(merges_wanted, longest):
    """Merges of byte pairs by frequency in TEXTS, ties by the pair itself.

    The texts are not cut into words first: tokens go over all boundaries, so that every rule for
    words shows in the tokens that remain.
    """
    characters = byte_characters()
    texts = [[characters[byte] for byte in text.encode()] for text in TEXTS]
    merges = []
    while len(merges) < merges_wanted:
        pairs = collections.Counter()
        for pieces in texts:
            for pair in zip(pieces, pieces[1:]):
                if len("".join(pair)) <= longest and "".join(pair) not in CONTROL + USER_DEFINED:
                    pairs[pair] += 1
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for pieces in texts:
            at = 0
            while at + 1 < len(pieces):
                if (pieces[at], pieces[at + 1]) == best:
                    pieces[at : at + 2] = ["".join(best)]
                at += 1
    return merges


def write_bpe(path, pre):
    merges = train(1500, 9)
    types = gguf.TokenType
    tokens = [(c, types.NORMAL) for c in byte_characters().values()]
    seen = {text for text, _ in tokens}
    for pair in merges:
        if "".join(pair) not in seen:
            seen.add("".join(pair))
            tokens.append(("".join(pair), types.NORMAL))
    # Tokens that no merge makes: only a rule that ignores merges finds them.
    extra = ["ĠMcDonald", "HTTP"]
    assert not seen.intersection(extra)
    tokens += [(text, types.NORMAL) for text in extra]
    tokens += [(text, types.CONTROL) for text in CONTROL]
    tokens += [(text, types.USER_DEFINED) for text in USER_DEFINED]
    tokens += [("<pad>", types.UNUSED)]
    number = {text: id for id, (text, _) in enumerate(tokens)}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("synthetic BPE")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([type for _, type in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(number["<|im_start|>"])
    writer.add_eos_token_id(number["<|endoftext|>"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def tokens(tool, model, text, parse):
    with tempfile.NamedTemporaryFile() as file:
        file.write(text.encode())
        file.flush()
        command = [tool, "-m", model, "-f", file.name, "--ids", "--no-bos", "--no-escape"]
        command += [] if parse else ["--no-parse-special"]
        run = subprocess.run(command + ["--log-disable"], capture_output=True, check=True)
    return run.stdout.decode().strip().strip("[]").replace(",", "")


def write_out(path, tool, models):
    """Groups names whose tokens are all the same: `# NAME NAME plain`."""
    groups = {}
    for name, model in models:
        # Special tokens are found before words.
        for mode in ["plain", "parse"] if name in PARSED else ["plain"]:
            lines = tuple(tokens(tool, model, text, mode == "parse") for text in TEXTS)
            groups.setdefault((lines, mode), []).append(name)
    with open(path, "w") as out:
        for (lines, mode), names in groups.items():
            out.write(f"# {' '.join(names)} {mode}\n" + "".join(f"{line}\n" for line in lines))


def main():
    tool, stories = sys.argv[1:]
    (HERE / "texts.inp").write_text(SEPARATOR.join([*TEXTS, ""]), newline="")
    write_bpe(HERE / "bpe.gguf", "gpt-2")
    write_out(HERE / "spm.out", tool, [("default", stories)])
    with tempfile.TemporaryDirectory() as folder:
        models = []
        for pre in PRE:
            models.append((pre, f"{folder}/{pre}.gguf"))
            write_bpe(models[-1][1], pre)
        write_out(HERE / "bpe.out", tool, models)


if __name__ == "__main__":
    main()
