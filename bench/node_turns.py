#!/usr/bin/env python3
"""What being attached costs node-llama-cpp, within one process: as attach_turns.py does it with llama-server.

    bench/node_turns.py --attnscope build/bin/attnscope --model MODEL.gguf --work build/attach-programs [--rounds 12] [--tokens 128]
                        [node-llama-cpp-3.22.1 ...]

MODEL is SmolLM2 as `attnscope models get smollm2` has it; packages are those of tests/attach/programs/run.py. A round is four requests, two
of them past our library, in turns; the first two requests do not count. Told are milliseconds a token past it (median of the rounds), what
being attached adds by the clock (median of the rounds' ratios, and the interval that holds it with 95% confidence), and microseconds that the
median token of a request takes longer, in all and where: before its graph, while it is computed, behind it, and elsewhere. What `attnscope attach` does beside the program
is in the first, and where a core is free for it in neither.
"""
import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from attach_cost import interval
from attach_turns import PARTS, Switch, compiled

HERE = Path(__file__).resolve().parent
spec = importlib.util.spec_from_file_location("run", HERE.parent / "tests/attach/programs/run.py")
programs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(programs)
N_UNCOUNTED = 2


def requests(options, name):
    """(past our library, milliseconds a token, microseconds of the parts of its median token) of each request that counts."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        switch = Switch(Path(folder) / "switch")
        program = ["node", HERE / "node_turns.mjs", programs.npm(options.work, name), options.model, str(options.tokens), str(options.rounds)]
        answer = subprocess.run(
            [options.attnscope, "attach", "--no-verify", "-o", Path(folder) / "recordings", "--", "sh", "-c",
             'exec env LD_PRELOAD="$0:$LD_PRELOAD" "$@"', compiled(folder), *program],
            env={**os.environ, "PASS_BY": str(switch.path), "NODE_LLAMA_CPP_SKIP_DOWNLOAD": "true"}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, timeout=3600, check=False)
        told = [line.split()[1:] for line in answer.stdout.splitlines() if line.startswith("REQUEST ")]
        if answer.returncode != 0 or len(told) != N_UNCOUNTED + 4 * options.rounds:
            sys.exit(f"{name} ended with {answer.returncode}:\n{answer.stderr[-2000:]}")
        if "tokens ok" not in answer.stderr:
            sys.exit(f"nothing of {name} was recorded:\n{answer.stderr[-2000:]}")
        each, left = divmod(switch.n_graphs(), len(told))
        if left:
            sys.exit(f"{switch.n_graphs()} graphs of {len(told)} requests")
        return [(past == "1", float(ms), switch.parts(i * each + 2, (i + 1) * each))
                for i, (past, ms) in enumerate(told)][N_UNCOUNTED:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("attnscope", "model", "work"):
        parser.add_argument("--" + name, required=True, type=lambda path: Path(path).resolve())
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("names", nargs="*", default=["node-llama-cpp-3.22.1"])
    options = parser.parse_args()
    print("| program | rounds | past our library, ms a token | attached adds (95%) | median token, us longer (95%) | before its graph | in it | behind it | elsewhere |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in options.names:
        rounds = [requests_of for requests_of in zip(*[iter(requests(options, name))] * 4)]
        def of(round_, past, what):
            return statistics.mean(what(r) for r in round_ if r[0] == past)
        ratios = [of(r, False, lambda q: q[1]) / of(r, True, lambda q: q[1]) for r in rounds]
        parts = {p: [of(r, False, lambda q: q[2][i]) - of(r, True, lambda q: q[2][i]) for r in rounds] for i, p in enumerate(PARTS)}
        low, high = interval(ratios)
        first, last = interval(parts["graph"])
        print(f"| {programs.NAMES.get(name, name)} | {len(rounds)} | {statistics.median(of(r, True, lambda q: q[1]) for r in rounds):.2f} "
              f"| {100 * (statistics.median(ratios) - 1):+.1f}% ({100 * (low - 1):+.1f} to {100 * (high - 1):+.1f}) "
              f"| {statistics.median(parts['graph']):.0f} ({first:.0f} to {last:.0f}) | "
              + " | ".join(f"{statistics.median(parts[p]):.0f}" for p in ("before", "launch", "behind", "rest")) + " |", flush=True)


if __name__ == "__main__":
    main()
