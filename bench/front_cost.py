#!/usr/bin/env python3
"""What a server in front of a program costs requests that ask for no attention, and what those with attention get.

    front_cost.py --attnscope BIN [--pairs N] [--clients N] [--tokens N] -- PROGRAM ARGS...       (PROGRAM is given --port PORT)

Four servers of the same program, one after the other in turns: alone; attached and asked directly; attached and asked through
`attnscope attach --serve`; the same, asked for the mean of each token's attention. Each is started, warmed up by one request, and asked by N clients at once for N tokens
each, streamed. Prints tokens a second of all clients together and the time to the first event, medians over the turns.
"""

import argparse
import json
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

PROMPT = "Tell me a long story about a lighthouse, a storm and a ship that was late. Once upon a time"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Served:
    def __init__(self, command, port):
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            try:
                urllib.request.urlopen(self.url + "/health", timeout=5).read()
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        sys.exit("the program does not answer")

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def ask(url, n_tokens, attention, seed):
    body = {"prompt": PROMPT, "n_predict": n_tokens, "ignore_eos": True, "stream": True, "temperature": 1, "seed": seed,
            "cache_prompt": False}
    if attention:
        body["attention"] = {"reduce": "mean"}
    request = urllib.request.Request(url + "/completion", json.dumps(body).encode(), {"Content-Type": "application/json"})
    began, first, n, rows = time.perf_counter(), None, 0, 0
    with urllib.request.urlopen(request, timeout=900) as answer:
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            first = first or time.perf_counter() - began
            event = json.loads(line[6:])
            n = event.get("tokens_predicted", n)
            rows += "data" in event.get("attention", {})
    if attention and rows < n:
        sys.exit(f"{rows} rows of {n} tokens: {line[:300]!r}")
    return first, n


def turn(url, clients, n_tokens, attention):
    ask(url, 4, False, 0)
    results, threads = [], []
    began = time.perf_counter()
    for i in range(clients):
        threads.append(threading.Thread(target=lambda i=i: results.append(ask(url, n_tokens, attention, i + 1))))
        threads[-1].start()
    for t in threads:
        t.join()
    seconds = time.perf_counter() - began
    if len(results) != clients:
        sys.exit("a request failed")
    return sum(n for _, n in results) / seconds, statistics.median(f for f, _ in results)


def main():
    at = sys.argv.index("--")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attnscope", required=True)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=96)
    options = parser.parse_args(sys.argv[1:at])
    program = sys.argv[at + 1:]
    kinds = {"alone": [], "attached, asked directly": [], "in front, no attention": [], "in front, the mean": []}
    for _ in range(options.pairs):
        for kind, measured in kinds.items():
            port, front = free_port(), free_port()
            command = [*program, "--port", str(port)]
            if kind != "alone":
                command = [options.attnscope, "attach", "-q", "--serve", f"127.0.0.1:{front}", "--to", f"127.0.0.1:{port}", "--",
                           *command]
            served = Served(command, front if kind.startswith("in front") else port)
            try:
                measured.append(turn(served.url, options.clients, options.tokens, kind.endswith("mean")))
            finally:
                served.end()
    speed, first = (statistics.median(m[i] for m in kinds["alone"]) for i in (0, 1))
    for kind, measured in kinds.items():
        ratios = sorted(m[0] / a[0] for m, a in zip(measured, kinds["alone"]))
        s, f = (statistics.median(m[i] for m in measured) for i in (0, 1))
        print(f"{kind}: {s:.1f} tokens/s ({statistics.median(ratios):.3f} of alone, {ratios[0]:.3f} to {ratios[-1]:.3f}), first event "
              f"after {f * 1e3:.1f} ms ({(f - first) * 1e3:+.1f})")


if __name__ == "__main__":
    main()
