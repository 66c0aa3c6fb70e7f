#!/usr/bin/env python3
"""Instructions for each element of a row that the host's kernels around the NPU take.

Runs the ignored test `rknn::instructions::kernel` of tessera-runtime, built for release, with few and with many
repeats; the difference is that of the kernel. On x86-64 valgrind's callgrind counts, for aarch64 qemu, which logs
each instruction with `-singlestep` (`-one-insn-per-tb` since 8.1). Kernels whose tools are missing are left out.

    python3 benches/instructions.py
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

ELEMENTS = 2048
FEW, MANY = 2, 22
KERNELS = [
    "rotate",
    "quantize",
    "quantize with a zero point",
    "digits",
    "nibbles into A",
    "bytes into A",
    "rescale w8a8",
    "rescale w4a8",
    "rescale w4a4",
]
TARGET = "aarch64-unknown-linux-gnu"
SYSROOT = "/usr/aarch64-linux-gnu"
TEST = ["rknn::instructions::kernel", "--exact", "--ignored", "--test-threads=1"]


def build(*arguments):
    """Path of the runtime's test binary."""
    command = ["cargo", "test", "--release", "-p", "tessera-runtime", "--lib", "--no-run"]
    output = subprocess.run(
        [*command, "--message-format=json", *arguments], stdout=subprocess.PIPE, check=True, text=True
    ).stdout
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message.get("executable"):
            return message["executable"]
    sys.exit("cargo built no test binary")


def environment(kernel, repeats):
    return {**os.environ, "TESSERA_KERNEL": kernel, "TESSERA_REPEATS": str(repeats)}


def callgrind(binary, kernel, repeats):
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", binary, *TEST]
        result = subprocess.run(command, env=environment(kernel, repeats), capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stdout + result.stderr)
    return int(re.search(r"Collected : (\d+)", result.stderr).group(1))


def qemu(binary, kernel, repeats):
    helped = subprocess.run(["qemu-aarch64", "--help"], capture_output=True, text=True).stdout
    single = "-one-insn-per-tb" if "-one-insn-per-tb" in helped else "-singlestep"
    command = ["qemu-aarch64", "-L", SYSROOT, single, "-d", "exec,nochain", binary, *TEST]
    process = subprocess.Popen(
        command, env=environment(kernel, repeats), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    count = sum(line.startswith(b"Trace") for line in process.stderr)
    if process.wait():
        sys.exit(f"{kernel} failed under qemu")
    return count


def main():
    ways = []
    if shutil.which("valgrind"):
        ways.append(("x86-64", callgrind, build()))
    if shutil.which("qemu-aarch64") and os.path.isdir(SYSROOT):
        ways.append(("aarch64", qemu, build("--target", TARGET)))
    if not ways:
        sys.exit("neither valgrind nor qemu-aarch64 is installed")
    print("| kernel | " + " | ".join(name for name, _, _ in ways) + " |")
    print("|---|" + "--:|" * len(ways))
    for kernel in KERNELS:
        figures = []
        for _, count, binary in ways:
            difference = count(binary, kernel, MANY) - count(binary, kernel, FEW)
            figures.append(f"{difference / (MANY - FEW) / ELEMENTS:.2f}")
        print(f"| {kernel} | " + " | ".join(figures) + " |", flush=True)


if __name__ == "__main__":
    main()
