#!/usr/bin/env python3
"""What being attached costs a program while it generates: programs from npm and PyPI, with and without `attnscope attach`, in turns.

    bench/attach_cost.py --attnscope build/bin/attnscope --libraries .deps/llama-cpu/bin --model MODEL.gguf
                         --work build/attach-programs [--rounds 6] [--tokens 128] [NAME ...]

MODEL is SmolLM2 as `attnscope models get smollm2` has it; programs and their pinned packages are those of tests/attach/programs/run.py, which
fetches them into FOLDER where they are not there. A round is four runs: without, with, with, without; each follows the other as often
as itself, and what the machine does meanwhile hits both alike. A round gives one ratio of the seconds that the program itself tells
(SECONDS: from its first token to its last; of a server from the first request to the last answer), on the clock and of processors. The
latter are the program's own, without those of `attnscope attach`, which takes, checks and writes beside it; where no core is free for
that, the clock alone shows it. Told are the median of the ratios and the interval that holds it with 95% confidence.
"""
import argparse
import importlib.util
import math
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("run", HERE.parent / "tests/attach/programs/run.py")
programs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(programs)
DEFAULT = ["node-llama-cpp-3.22.1", "llama-cpp-python", "xllamacpp-server"]


def interval(values):
    """Of the median, by order statistics; of fewer than six the least and the largest."""
    values, n = sorted(values), len(values)
    k = 0
    while k < n // 2 and sum(math.comb(n, i) for i in range(k + 1)) / 2**n <= 0.025:
        k += 1
    k = max(k - 1, 0)
    return values[k], values[n - 1 - k]


def seconds(options, command, attached):
    argv = [str(c) for c in command]
    folder = options.work / "cost"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if attached:
        argv = [str(options.attnscope), "attach", "--no-verify", "-o", str(folder), "--", *argv]
    answer = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=600, check=False)
    told = [tuple(map(float, line.split()[1:])) for line in answer.stdout.splitlines() if line.startswith("SECONDS ")]
    if answer.returncode != 0 or len(told) != 1:
        sys.exit(f"{argv} ended with {answer.returncode}:\n{answer.stdout[-500:]}\n{answer.stderr[-2000:]}")
    if attached and not any(folder.glob("*.attn")):
        sys.exit(f"nothing of {argv} was recorded:\n{answer.stderr[-2000:]}")
    return told[0]


def measure(options, name, variant, command):
    seconds(options, command, False)  # from the disk
    rounds = [[(with_it, seconds(options, command, with_it)) for with_it in (False, True, True, False)]
              for _ in range(options.rounds)]
    cells = []
    for clock in (0, 1):
        ratios = [sum(s[clock] for with_it, s in r if with_it) / sum(s[clock] for with_it, s in r if not with_it) for r in rounds]
        low, high = interval(ratios)
        plain = statistics.median(s[clock] for r in rounds for with_it, s in r if not with_it)
        cells.append(f"{plain:.2f} | {100 * (statistics.median(ratios) - 1):+.1f}% ({100 * (low - 1):+.1f} to {100 * (high - 1):+.1f})")
    print(f"| {programs.NAMES.get(name, name)} | {variant} | {2 * options.rounds} | {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("attnscope", "libraries", "model", "work"):
        parser.add_argument("--" + name, required=True, type=lambda path: Path(path).resolve())
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("names", nargs="*", default=DEFAULT)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ["NODE_LLAMA_CPP_SKIP_DOWNLOAD"] = "true"
    programs.N_PREDICT = options.tokens
    print("| program | run | pairs | seconds without | added (95%) | processor seconds without | added (95%) |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in options.names:
        variant, command = programs.PROGRAMS[name](options, name)[0]
        measure(options, name, variant, command)


if __name__ == "__main__":
    main()
