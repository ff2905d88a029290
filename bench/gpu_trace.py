#!/usr/bin/env python3
"""Where a token's time goes, plain and capturing, from what libgpu_trace.so wrote (bench/gpu_trace.cpp): medians over tokens.

  bench/gpu_trace.py TRACE

A token is what lies between two launches of a graph on one stream with no launch on another between them."""
import statistics, sys

if len(sys.argv) != 2:
    sys.exit(__doc__)
calls = []
for line in open(sys.argv[1]):
    f = line.split()
    calls.append((f[0], f[1], f[2], int(f[3]), float(f[4]), float(f[5]), float(f[6])))
calls.sort(key=lambda c: c[4])
launches = [i for i, c in enumerate(calls) if c[0] == "G"]
if not launches:
    sys.exit(f"{sys.argv[1]}: no graph was launched")
main = calls[launches[0]][1]
capturing = {c[2] for c in calls if c[0] == "W"}  # a context that captures has its stream wait for ours

tokens = {False: [], True: []}
for a, b in zip(launches, launches[1:]):
    first, then = calls[a], calls[b]
    if first[2] != then[2] or then[4] - first[4] > 20e3:
        continue
    between = [c for c in calls[a + 1:b] if c[1] == main]
    waits = [c for c in between if c[0] == "S" and c[2] == first[2]]
    inputs = [c for c in between if c[0] == "C" and c[2] != first[2] and waits and c[4] > waits[0][4]]
    if not waits or not inputs:
        continue
    wait = max(waits, key=lambda c: c[5] - c[4])  # for the logits
    tokens[first[2] in capturing].append({
        "a token": then[4] - first[4],
        "  launching its graph": first[5] - first[4],
        "  until its logits are there": wait[5] - first[5],
        "    of which the graph runs on the GPU": first[6],
        "  choosing the next, preparing its graph": inputs[0][4] - wait[5],
        "  bringing its inputs": then[4] - inputs[0][4],
    })
if not tokens[False] or not tokens[True]:
    sys.exit(f"{sys.argv[1]}: there must be plain and capturing turns on one GPU (attnscope bench -fa on)")
print(f"{'microseconds, medians':42} {'plain':>9} {'capturing':>9} {'more':>7}   ({len(tokens[False])}, {len(tokens[True])} tokens)")
for name in tokens[True][0]:
    plain, captured = (statistics.median(t[name] for t in tokens[kind]) for kind in (False, True))
    print(f"{name:42} {plain:9.1f} {captured:9.1f} {captured - plain:+7.1f}")
