#!/usr/bin/env python3
"""What the library of `attnscope attach` adds to programs that it does not concern: /bin/true and `node -e 0`.

    bench/attach_startup.py build/lib/libattnscope_attach.so [--pairs 400] [--node-pairs 60]

Each program is started with and without the library in turns, the order changing from pair to pair. Told are medians of user and
system time and of wall time without it, the median of the differences of pairs, and the interval that holds that median with 95%
confidence. Processor time is the kernel's own (wait4), wall time from before the start to after the end.
"""
import argparse
import math
import os
import shutil
import statistics
import tempfile
import time


def start(argv, environment):
    begin = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, environment)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - begin
    if status != 0:
        raise SystemExit(f"{argv} ended with {status}")
    return usage.ru_utime + usage.ru_stime, wall


def interval(values):
    """Of the median, by order statistics."""
    values = sorted(values)
    n = len(values)
    below, k = 0.0, 0
    while k < n // 2 and below + math.comb(n, k) / 2**n <= 0.025:
        below += math.comb(n, k) / 2**n
        k += 1
    k = max(k - 1, 0)
    return values[k], values[n - 1 - k]


def measure(argv, pairs, plain, attached):
    for environment in (plain, attached):
        start(argv, environment)  # from the disk
    times = {False: [], True: []}
    for i in range(pairs):
        for with_library in ((False, True), (True, False))[i % 2]:
            times[with_library].append(start(argv, attached if with_library else plain))
    cells = []
    for column in (0, 1):
        without = statistics.median(t[column] for t in times[False])
        differences = [b[column] - a[column] for a, b in zip(times[False], times[True])]
        low, high = interval(differences)
        cells.append(f"{without * 1e3:.2f} | {statistics.median(differences) * 1e3:+.2f} ({low * 1e3:+.2f} to {high * 1e3:+.2f})")
    print(f"| `{' '.join(argv)}` | {pairs} | {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--node-pairs", type=int, default=60)
    options = parser.parse_args()
    plain = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "ATTNSCOPE_ATTACH")}
    print("| program | pairs | user + system, ms | added | wall, ms | added |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        attached = dict(plain, LD_PRELOAD=os.path.abspath(options.library), ATTNSCOPE_ATTACH=folder)
        measure(["/bin/true"], options.pairs, plain, attached)
        node = shutil.which("node")
        if node:
            measure([node, "-e", "0"], options.node_pairs, plain, attached)
        left = os.listdir(folder)
    if left:
        raise SystemExit(f"programs without ggml have left {left}")


main()
