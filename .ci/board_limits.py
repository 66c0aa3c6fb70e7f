"""What a binary for the board weighs and needs: its bytes, shared libraries, version of glibc, and crates.

Exits with 1 and says so where one of these passes its limit. Needs readelf and cargo.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

TARGET = "aarch64-unknown-linux-gnu"
LOADER = "/lib/ld-linux-aarch64.so.1"
LIBRARIES = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-aarch64.so.1"}
# Parts of glibc: libraries of their own before 2.34, and empty ones since.
BEFORE_2_34 = {"libdl.so.2", "libpthread.so.0"}
CRATES = 110
# A crate that needs one of these to build calls a compiler of C, or looks for libraries on the machine.
BUILD_TOOLS = {"bindgen", "cc", "cmake", "pkg-config"}


def said_by(*command):
    """Lines that a command prints, in English."""
    environment = {**os.environ, "LC_ALL": "C"}
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return result.stdout.splitlines()


def crates(edges):
    """Names and versions of the crates that are reached from tessera's."""
    tree = ["cargo", "tree", "--locked", "-p", "tessera", "-e", edges, "--target", TARGET]
    lines = said_by(*tree, "--prefix", "none", "--format", "{p}")
    return sorted({" ".join(line.split()[:2]) for line in lines if line})


def number(version):
    return tuple(map(int, version.split(".")))


def limit(text):
    return None if text == "any" else text


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("binary", type=Path)
parser.add_argument("--glibc", type=limit, default="2.28", help="newest version that may be needed, or `any`")
parser.add_argument("--mebibytes", type=limit, default="12", help="size that may be reached, or `any`")
arguments = parser.parse_args()
os.chdir(Path(__file__).parent.parent)
binary = str(arguments.binary.absolute())
passed = []

header = "\n".join(said_by("readelf", "--wide", "--file-header", "--program-headers", binary))
if not re.search(r"Machine: +AArch64", header) or f"interpreter: {LOADER}]" not in header:
    passed.append(f"it is no program for 64-bit ARM that {LOADER} starts")

size = Path(binary).stat().st_size
print(f"size: {size} bytes, {size / 2**20:.2f} MiB")
if arguments.mebibytes and size > float(arguments.mebibytes) * 2**20:
    passed.append(f"its size is above {arguments.mebibytes} MiB")

versions = set(re.findall(r"Name: GLIBC_([0-9.]+)", "\n".join(said_by("readelf", "-VW", binary))))
newest = max(versions, key=number, default="0")
print(f"newest symbol: GLIBC_{newest}; versions in use: {', '.join(sorted(versions, key=number))}")
if arguments.glibc and number(newest) > number(arguments.glibc):
    passed.append(f"it needs glibc {newest}, and {arguments.glibc} is the newest allowed")

dynamic = "\n".join(said_by("readelf", "-dW", binary))
libraries = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
print(f"shared libraries: {', '.join(libraries)}")
old = number(newest) < (2, 34)
for library in libraries:
    if library in BEFORE_2_34 and old:
        print(f"  {library} is a part of glibc, which has it in a file of its own before 2.34")
    elif library not in LIBRARIES:
        passed.append(f"it needs {library}, which is none of {', '.join(sorted(LIBRARIES))}")
if re.search(r"\((RPATH|RUNPATH)\)", dynamic):
    passed.append("it looks for libraries in folders of the machine that built it")

inside = crates("normal,no-proc-macro")
print(f"crates in it: {len(inside)}, and {len(crates('normal')) - len(inside)} for macros while it is built")
print("  " + "\n  ".join(inside))
if len(inside) > CRATES:
    passed.append(f"{len(inside)} crates go into it, and {CRATES} are the most allowed")
for crate in crates("normal,build"):
    if crate.split()[0] in BUILD_TOOLS:
        passed.append(f"{crate} is used to build it")

for reason in passed:
    print(f"error: {binary}: {reason}", file=sys.stderr)
sys.exit(bool(passed))
