#!/usr/bin/python3
"""How fast `attnscope diagnose` goes through a Halo Weave folder, against NumPy reading and summing the same files.

usage: diagnose_vs_numpy.py ATTNSCOPE [--layers 28] [--heads 28] [--context 2048] [--tokens 64] [--rounds 5]

Writes a folder of softmaxed random scores (removed afterwards), then lets the two take turns, so that both meet the same
page cache and the same neighbours. Prints the bytes, every time, and the medians. NumPy's part is np.fromfile and sum of
each token in one process that is already running; diagnose is a new process each time. Processor time is given beside
wall-clock time: on a machine that others use too it is the steadier of the two.
"""
import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time

import numpy as np


def write_folder(folder, a):
    rng = np.random.default_rng(1)
    with open(os.path.join(folder, "metadata.json"), "w") as f:
        json.dump({"num_layers": a.layers, "num_attention_heads": a.heads}, f)
    total = 0
    for t in range(a.tokens):
        n = a.context + t
        x = np.exp(rng.standard_normal((a.layers, a.heads, n), dtype=np.float32))
        x /= x.sum(axis=-1, keepdims=True)
        x.tofile(os.path.join(folder, "token_%05d_attn.bin" % t))
        with open(os.path.join(folder, "token_%05d_meta.json" % t), "w") as f:
            json.dump({"attention_shape": [a.layers, a.heads, n], "attention_context_length": n}, f)
        total += x.nbytes
    return total


def numpy_sum(folder, tokens):
    total = 0.0
    for t in range(tokens):
        total += float(np.fromfile(os.path.join(folder, "token_%05d_attn.bin" % t), dtype=np.float32).sum())
    return total


def processor_seconds(who):
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("attnscope")
    for name, value in (("layers", 28), ("heads", 28), ("context", 2048), ("tokens", 64), ("rounds", 5)):
        parser.add_argument("--" + name, type=int, default=value)
    a = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="attnscope-bench-")
    try:
        total = write_folder(folder, a)
        times = {"numpy": [], "diagnose": []}
        for round_number in range(a.rounds + 1):
            cpu, start = processor_seconds(resource.RUSAGE_SELF), time.perf_counter()
            numpy_sum(folder, a.tokens)
            numpy_time = time.perf_counter() - start, processor_seconds(resource.RUSAGE_SELF) - cpu
            cpu, start = processor_seconds(resource.RUSAGE_CHILDREN), time.perf_counter()
            done = subprocess.run([a.attnscope, "diagnose", folder], stdout=subprocess.DEVNULL)
            ours = time.perf_counter() - start, processor_seconds(resource.RUSAGE_CHILDREN) - cpu
            assert done.returncode == 0, "a clean folder was not found clean"
            if round_number > 0:  # the first round fills the page cache
                times["numpy"].append(numpy_time)
                times["diagnose"].append(ours)
        print("%d tokens of [%d, %d, %d...]: %.2f GB" % (a.tokens, a.layers, a.heads, a.context, total / 1e9))
        medians = {}
        for name, pairs in times.items():
            wall, cpu = (statistics.median(column) for column in zip(*pairs))
            medians[name] = wall, cpu
            print("%-9s wall %.3f s = %.2f GB/s (%s), processor %.3f s = %.2f GB/s" % (
                name, wall, total / 1e9 / wall, " ".join("%.3f" % pair[0] for pair in pairs), cpu, total / 1e9 / cpu))
        print("diagnose / numpy: %.2f times the rate by wall clock, %.2f by processor time" % tuple(
            n / d for n, d in zip(medians["numpy"], medians["diagnose"])))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
