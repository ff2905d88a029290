"""How fast the package is: patterns against torch, rows against the library, opening a large file.

    python python/bench/speed.py [--tokens 2048] [--threads 2] [--turns 9] [--large FILE.attn]

Everything is measured in turns in this process; medians. Without torch the first part is left out.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np  # noqa: E402

import attnscope as at  # noqa: E402


def timed(f):
    begin = time.perf_counter()
    result = f()
    return time.perf_counter() - begin, result


def in_turns(turns, *functions):
    times = [[] for _ in functions]
    for _ in range(turns):
        for i, f in enumerate(functions):
            times[i].append(timed(f)[0])
    return [statistics.median(t) for t in times]


def recording(tokens):
    words = "Anna keeps bees in Oslo. Boris bakes bread in Lisbon. Chen repairs clocks in Kyoto. "
    with at.Session("smollm2", n_ctx=tokens + 64, witness=False) as s:
        ids = s.tokenize(words * (tokens // 16 + 1))[:tokens]
    return at.capture("smollm2", ids, n_predict=1, n_ctx=tokens + 64, witness=False)


def pattern_against_torch(run, turns, threads, layer=10):
    try:
        import torch
    except ImportError:
        print("no torch: pattern() is not compared with it")
        return
    torch.set_num_threads(threads)
    info = run.layers[layer]
    q = torch.from_numpy(run.queries(layer).transpose(1, 0, 2).copy())
    k = torch.from_numpy(run.keys(layer).repeat(info.n_head // info.n_head_kv, axis=1).transpose(1, 0, 2).copy())
    mask = torch.ones(len(run), len(run), dtype=torch.bool).triu(1)

    def eager():
        scores = torch.matmul(q, k.transpose(1, 2)) * info.scale
        return torch.softmax(scores.masked_fill_(mask, float("-inf")), dim=-1)

    with torch.inference_mode():
        ours, theirs = run.pattern(layer), eager().numpy()
        print(f"largest difference: {np.abs(ours - theirs).max():.1e}")
        mine, torchs = in_turns(turns, lambda: run.pattern(layer), eager)
    print(f"pattern of one layer, {len(run)} tokens, {info.n_head} heads, {threads} threads: {mine * 1e3:.1f} ms from the file; "
          f"torch {torch.__version__} from Q and K in memory {torchs * 1e3:.1f} ms; ratio {mine / torchs:.2f}")


def pattern_against_map(run, turns, layer=10):
    """The two ways to all rows of a layer: for any selection of tokens (rows_block), and for tokens in a line (attention_map)."""
    ways = {
        "pattern()": lambda: run.pattern(layer),
        "map(exact=True)": lambda: run.map(layers=[layer], each_row=True, exact=True),
        "map()": lambda: run.map(layers=[layer], each_row=True),
    }
    first = [f() for f in ways.values()]
    assert np.array_equal(first[0], first[1][0])
    times = in_turns(turns, *ways.values())
    print(f"the same pattern, {len(run)} tokens: " + ", ".join(f"{name} {t * 1e3:.1f} ms" for name, t in zip(ways, times))
          + f"; map() differs by at most {np.abs(first[0] - first[2][0]).max():.1e}")


def rows(run, turns):
    token = min(41, len(run) - 1)
    layers, heads = list(range(run.n_layers)), list(range(run.n_heads))
    core = run._core

    def against_library(index, *chosen):
        run[index]
        wholes, libraries = [], []
        for _ in range(turns * 40):
            wholes.append(timed(lambda: run[index])[0])
            libraries.append(core.rows_seconds(token, *chosen))
        whole, library = statistics.median(wholes), statistics.median(libraries)
        print(f"run[{index}]: {whole * 1e6:.0f} us, of which the library's rows {library * 1e6:.0f} us and Python's part {(whole - library) * 1e6:.0f} us")

    against_library(token, layers, heads)
    against_library((token, 3, 5), [3], [5])
    program = os.path.join(os.path.dirname(sys.executable), "attnscope")
    out = os.path.join(os.path.dirname(run.path), "row.npy")
    command = [program, "export", run.path, "--to", "npy", "--token", str(token), "--force", "-o", out]
    (export,) = in_turns(turns, lambda: subprocess.run(command, check=True, capture_output=True))
    print(f"attnscope export of the same token, process and file: {export * 1e3:.1f} ms")
    assert np.array_equal(np.load(out), run[token])


OPEN = """
import resource, sys, time
import attnscope as at
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 1024
before = resident()
begin = time.perf_counter()
run = at.open(sys.argv[1])
opened = time.perf_counter()
row = run[run.n_tokens - 1, 0, 0]
print((opened - begin) * 1e3, (time.perf_counter() - opened) * 1e3, resident() - before, row.nbytes)
"""


def opening(path, turns):
    said = [subprocess.run([sys.executable, "-c", OPEN, path], check=True, capture_output=True, text=True).stdout.split() for _ in range(turns)]
    opened, row, memory = (statistics.median(float(s[i]) for s in said) for i in range(3))
    print(f"opening {os.path.getsize(path) / 1e9:.2f} GB: {opened:.1f} ms; then its last token's first row {row:.1f} ms; "
          f"memory of both {memory / 1024:.1f} MB for a row of {int(said[0][3])} bytes")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--large")
    a = parser.parse_args()
    at.set_threads(a.threads)
    run = recording(a.tokens)
    print(f"kernels: {at.simd()}; peak memory so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    pattern_against_torch(run, a.turns, a.threads)
    pattern_against_map(run, a.turns)
    rows(run, a.turns)
    opening(a.large or run.path, a.turns)


if __name__ == "__main__":
    main()
