#!/usr/bin/env python3
"""Tokens per second of `tessera eval` beside llama-perplexity, on a model with made-up weights.

In turn, on the same text, with the same threads: tessera in floats and llama-perplexity on the F16 file;
tessera on the simulator with the w8a8 pack made from it, and llama-perplexity on the Q8_0 file; and again.
What is timed is the whole process less the same process over fewer chunks, so that neither loading nor
starting counts. Prints a Markdown table of medians of tokens per second, the ratios tessera /
llama-perplexity, and peak memory (maxima).

llama-perplexity is built once, into target/peer, from the source archive of the PyPI package
llama-cpp-python 0.3.36; that needs pip, CMake and a C++ compiler. `--peer PATH` or PEER=PATH takes one
that is already there. Only the standard library is used.

    python3 benches/compare_llama_perplexity.py                        # 1.1 billion weights, 3 runs each
    python3 benches/compare_llama_perplexity.py --layers 2 --runs 1    # to see that it works
"""

import argparse
import json
import os
import random
import statistics

from peer import add_arguments, fail, measure, prepare, processor, run, say

CONTEXT = 512
PAIRS = [("float", "F16"), ("w8a8", "Q8_0")]


def made_up_text(path, chunks):
    """Letters without meaning: the model's vocabulary spells them byte by byte."""
    letters = random.Random(0)
    text = "".join(letters.choices("etaoinshrdlu ", k=(chunks + 1) * CONTEXT))
    path.write_text(text)
    return path


def print_table(report):
    print(f"{report['processor']}, {report['cpus']} CPUs, {report['threads']} threads; "
          f"`{report['model']}`, context {CONTEXT}, {report['tokens']} tokens timed, "
          f"{report['runs']} runs each, `--memory-budget {report['memory_budget']}`\n")
    print("| | tokens/s | peak RSS, MiB | | tokens/s | peak RSS, MiB | ratio |")
    print("|---|---|---|---|---|---|---|")
    for ours, theirs in PAIRS:
        a, b = report["results"][ours], report["results"][theirs]
        print(f"| tessera {ours} | {a['tokens_per_second']:.1f} | {a['peak_rss_mib']:.0f} "
              f"| llama-perplexity {theirs} | {b['tokens_per_second']:.1f} "
              f"| {b['peak_rss_mib']:.0f} "
              f"| {a['tokens_per_second'] / b['tokens_per_second']:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, "llama-perplexity")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--chunks", type=int, default=8, help="chunks of the longer process")
    parser.add_argument("--memory-budget", default="1G")
    arguments = parser.parse_args()
    if arguments.runs < 1 or arguments.threads < 1 or arguments.chunks < 8:
        parser.error("--runs and --threads must be at least 1, --chunks at least 8")
    tessera, peer, directory, sources = prepare(arguments, "llama-perplexity", ["f16", "q8_0"])
    text = made_up_text(directory / "text.txt", arguments.chunks)
    pack = directory / "w8a8.safetensors"
    run([tessera, "convert", sources["f16"], "-o", pack, "--scheme", "w8a8", "--force"])

    def ours(model):
        return [tessera, "eval", model, "--text", text, "--ctx", CONTEXT, "--json", "--threads",
                arguments.threads, "--memory-budget", arguments.memory_budget, "--chunks"]

    def theirs(model):
        return [peer, "-m", model, "-f", text, "-c", CONTEXT, "-b", 2048, "-t", arguments.threads,
                "--chunks"]

    commands = {"float": ours(sources["f16"]), "F16": theirs(sources["f16"]),
                "w8a8": ours(pack), "Q8_0": theirs(sources["q8_0"])}
    # Both take batches of 2048 tokens.
    few = 4
    tokens = (arguments.chunks - few) * CONTEXT
    runs = {name: [] for name in commands}
    for _ in range(arguments.runs):
        for name, command in commands.items():
            short, _ = measure([*command, few], directory / "run.log")
            long, _ = measure([*command, arguments.chunks], directory / "run.log")
            seconds = long["wall_seconds"] - short["wall_seconds"]
            if seconds <= 0:
                fail(f"{name}: {arguments.chunks} chunks took no longer than {few}")
            result = {"tokens_per_second": tokens / seconds, "peak_rss_mib": long["peak_rss_mib"],
                      "cpu_seconds": long["cpu_seconds"] - short["cpu_seconds"]}
            say(f"{name:5} {result['tokens_per_second']:8.1f} tokens/s "
                f"{result['cpu_seconds']:7.2f} CPU s {result['peak_rss_mib']:7.0f} MiB")
            runs[name].append(result)

    results = {name: {
        "tokens_per_second": statistics.median(r["tokens_per_second"] for r in of_model),
        "cpu_seconds": statistics.median(r["cpu_seconds"] for r in of_model),
        "peak_rss_mib": max(r["peak_rss_mib"] for r in of_model),
    } for name, of_model in runs.items()}
    report = {
        "processor": processor(), "cpus": os.cpu_count(), "threads": arguments.threads,
        "model": arguments.model, "layers": arguments.layers, "vocabulary": arguments.vocabulary,
        "tokens": tokens, "memory_budget": arguments.memory_budget, "runs": arguments.runs,
        "load_average": os.getloadavg(), "results": results, "every_run": runs,
    }
    if arguments.json:
        print(json.dumps(report, indent=2))
    else:
        print_table(report)


if __name__ == "__main__":
    main()
