#!/usr/bin/env python3
"""What being attached costs a llama-server, within one process: captured, past the capture, past it, captured, in turns.

    bench/attach_turns.py build/bin/attnscope LLAMA_SERVER -m MODEL.gguf [--prompts 1 4] [--tokens 400] [--seconds 120]
                          [--ways captured front] [--stream] [--devices] [-- OPTIONS OF THE SERVER]

Two equal servers on a GPU differ by up to 5%, each for as long as it lives, which is more than what is to be measured. So there is one
server, and a switch (pass_by.cpp, which this compiles) that has the engine's calls go past our library: then it runs as if nobody were
attached, but for the reading of its memory's addresses. A batch is one request of N prompts that nobody has asked before (with --stream
N requests at once, each a stream); a round has each way, plain first and last, in the other order every second time.
    plain      past our library, asked at the server's own port
    captured   every token's queries and keys taken, proven and written into a file each (FOLDER, in memory unless told)
    front      the same, and asked through `--serve` without attention
    mean       the same, with the mean of every token's attention (--stream)
Told are tokens a second by the clock, the median of the rounds' ratios to the mean of the plain ones beside it and the interval that
holds it with 95% confidence; `plain` is one half of them against the other: what the method itself adds. Then how many cores the
program and `attnscope attach` were busy with. The second table has microseconds of the thread that decodes, from one graph of
generated tokens to the next: the median of a batch's graphs, of which the median of the rounds; for ways the difference to plain.
    graph      from one graph to the next
    before     the scheduler gives the devices what the graph reads; what we do before
    launch     the graph is given to its device, or the last part of it (on a CPU: computed)
    behind     what we do behind that
    wait       for the devices: what our library does shortens this, as long as they have something to do
    rest       the program's own: sampling, answers, its next batch; what we do before memory is given out
"""
import argparse
import http.client
import json
import mmap
import os
import random
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from attach_cost import interval
from serve_turns import free_port

HERE = Path(__file__).resolve().parent
NOBODYS = random.Random(11)
HEAD, MOST_GRAPHS, OF_A_GRAPH = 32, 1 << 16, 6  # of pass_by.cpp
PARTS = ["graph", "before", "launch", "behind", "wait", "rest"]


def compiled(folder):
    library = Path(folder) / "pass_by.so"
    subprocess.run([os.environ.get("CXX", "c++"), "-O2", "-fPIC", "-shared", "-fvisibility=hidden", HERE / "pass_by.cpp", "-o", library, "-ldl"],
                   check=True)
    return library


def processor_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Switch:
    """The file of pass_by.cpp: whether the engine's calls go past our library, and when each graph was where."""

    def __init__(self, path):
        self.path = path
        path.write_bytes(bytes(HEAD + 8 * OF_A_GRAPH * MOST_GRAPHS))
        with open(path, "r+b") as file:
            self.mapped = mmap.mmap(file.fileno(), 0)

    def pass_by(self, on):
        self.mapped[0:8] = struct.pack("<Q", on)

    def n_graphs(self):
        return struct.unpack("<Q", self.mapped[8:16])[0]

    def n_built(self):
        return struct.unpack("<Q", self.mapped[16:24])[0]

    def parts(self, first, end):
        """Medians of the parts of graphs first to end, in microseconds: of those that the program waited for, next to each other."""
        graphs = []
        for n in range(max(first, end - MOST_GRAPHS), end):
            at = HEAD + 8 * OF_A_GRAPH * (n % MOST_GRAPHS)
            graphs.append(struct.unpack("<6Q", self.mapped[at:at + 8 * OF_A_GRAPH]))
        each = []
        for (given, launched, running, returned, awaited, done), (following, *_) in zip(graphs, graphs[1:]):
            if given and launched and returned and done:
                parts = launched - given, running - launched, returned - running, done - awaited
                each.append((following - given, *parts, following - given - sum(parts)))
        return [statistics.median(e[i] for e in each) / 1e3 for i in range(len(PARTS))]


class Attached:
    """llama-server under `attnscope attach`, with the switch between it and our library."""

    def __init__(self, o, folder):
        self.o, self.port, self.front = o, free_port(), free_port()
        self.switch = Switch(Path(folder) / "switch")
        self.recordings = Path(o.folder or folder) / "recordings"
        self.recordings.mkdir(parents=True)
        self.log = open(Path(folder) / "log", "w+", encoding="utf-8", errors="replace")
        serve = ["--serve", f"127.0.0.1:{self.front}"] if set(o.ways) & {"front", "mean"} else []
        server = [o.server, "-m", o.model, "--port", str(self.port), "-np", str(max(o.prompts)), *o.options]
        started = 'exec env LD_PRELOAD="$0:$LD_PRELOAD" "$@"'
        self.process = subprocess.Popen(
            [o.attnscope, "attach", "--no-verify", *(["--devices"] if o.devices else []), *serve, "-o", self.recordings, "--",
             "sh", "-c", started, compiled(folder), *server],
            env={**os.environ, "PASS_BY": str(self.switch.path), "LLAMA_ARG_CACHE_RAM": "0"}, stdout=self.log, stderr=self.log)
        self.wait_until_it_answers()

    def wait_until_it_answers(self):
        for _ in range(2400):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).read()
                return
            except OSError:
                if self.process.poll() is not None:
                    self.fail(f"ended with {self.process.returncode}")
                time.sleep(0.1)
        self.fail("does not answer")

    def fail(self, why):
        self.log.seek(0)
        sys.exit(f"llama-server {why}:\n{self.log.read()[-2000:]}")

    def program(self):
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def cores(self):
        return processor_seconds(self.program()), processor_seconds(self.process.pid)

    def ask(self, way, prompts):
        body = {"prompt": prompts if len(prompts) > 1 else prompts[0], "n_predict": self.o.tokens, "temperature": 0, "ignore_eos": True,
                "cache_prompt": False, "stream": self.o.stream, "return_tokens": True}
        if way == "mean":
            body["attention"] = {"reduce": "mean"}
        port = self.front if way in ("front", "mean") else self.port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=900)
        connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        if response.status != 200:
            self.fail(f"answers {response.status}: {answer[:300]}")
        if not self.o.stream:
            parts = json.loads(answer)
            return sum(a["tokens_predicted"] for a in (parts if isinstance(parts, list) else [parts]))
        events = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith(b"data: {")]
        if way == "mean" and sum("data" in (e.get("attention") or {}) for e in events) < self.o.tokens - 1:
            self.fail(f"gives {sum('data' in (e.get('attention') or {}) for e in events)} means of {self.o.tokens} tokens")
        return max(e.get("tokens_predicted", 0) for e in events)

    def batch(self, way, n_prompts):
        """(tokens a second, cores of the program, cores of attnscope attach, the parts of a graph)"""
        prompts = [[NOBODYS.randrange(10, self.o.vocabulary) for _ in range(self.o.prompt_length)] for _ in range(n_prompts)]
        self.switch.pass_by(way == "plain")
        first_graph = self.switch.n_graphs() + 2 * n_prompts  # prompts
        cores, began = self.cores(), time.perf_counter()
        if self.o.stream:
            told = []
            threads = [threading.Thread(target=lambda p=p: told.append(self.ask(way, [p]))) for p in prompts]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            n = sum(told)
        else:
            n = self.ask(way, prompts)
        took, after = time.perf_counter() - began, self.cores()
        if n != n_prompts * self.o.tokens:
            self.fail(f"gives {n} tokens of {n_prompts * self.o.tokens}")
        if way != "plain":
            self.tidy()
        return (n / took, (after[0] - cores[0]) / took, (after[1] - cores[1]) / took,
                self.switch.parts(first_graph, self.switch.n_graphs()))

    def tidy(self):
        """Nobody reads them, and thousands of tokens of a large model are many gigabytes."""
        files = sorted(self.recordings.rglob("*.attn"), key=lambda f: f.stat().st_mtime)
        for file in files[:-2 * max(self.o.prompts)]:
            file.unlink()

    def verify(self):
        """The newest recording is whole: what was measured was captured."""
        newest = max(self.recordings.rglob("*.attn"), key=lambda f: f.stat().st_mtime)
        told = subprocess.run([self.o.attnscope, "verify", newest], capture_output=True, text=True, check=False)
        if told.returncode != 0:
            sys.exit(f"what was captured is not good: {told.stdout[-1000:]}{told.stderr[-1000:]}")
        return told.stdout.strip().splitlines()[-1]

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


def middle(values, digits):
    low, high = interval(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def tell(o, n_prompts, rounds):
    """`rounds`: of each way its results, plain twice."""
    def ratio(r, way):
        return r["plain"][1][0] / r["plain"][0][0] if way == "plain" else 2 * r[way][0][0] / (r["plain"][0][0] + r["plain"][1][0])

    def added(r, way, part):
        plain = [p[3][part] for p in r["plain"]]
        return r[way][0][3][part] - sum(plain) / 2

    print(f"\n{n_prompts} {'streams' if o.stream else 'prompts'}, {o.tokens} tokens each, {len(rounds)} rounds\n\n"
          "| | tokens a second | ratio (95%) | cores: program | cores: attach |\n|---|---|---|---|---|")
    for way in ("plain", *o.ways):
        speed, program, parent = (statistics.median(x[i] for r in rounds for x in r[way]) for i in range(3))
        print(f"| {way} | {speed:.1f} | {middle([ratio(r, way) for r in rounds], 4)} | {program:.2f} | {parent:.2f} |")
    print(f"\n| microseconds | {' | '.join(PARTS)} |\n|---|{'---|' * len(PARTS)}")
    print("| plain | " + " | ".join(middle([x[3][i] for r in rounds for x in r["plain"]], 0) for i in range(len(PARTS))) + " |")
    for way in o.ways:
        print(f"| {way}, added | " + " | ".join(middle([added(r, way, i) for r in rounds], 1) for i in range(len(PARTS))) + " |", flush=True)


def measure(o, server, n_prompts):
    for way in ("plain", *o.ways):
        server.batch(way, n_prompts)
    rounds, until = [], time.monotonic() + o.seconds
    while time.monotonic() < until:
        results = {"plain": [server.batch("plain", n_prompts)]}
        for way in o.ways if len(rounds) % 2 == 0 else o.ways[::-1]:
            results[way] = [server.batch(way, n_prompts)]
        results["plain"].append(server.batch("plain", n_prompts))
        rounds.append(results)
    tell(o, n_prompts, rounds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attnscope")
    parser.add_argument("server")
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--prompt-length", type=int, default=16)
    parser.add_argument("--vocabulary", type=int, default=250, help="token ids of prompts lie below")
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=120, help="for each number of prompts")
    parser.add_argument("--ways", nargs="+", choices=["captured", "front", "mean"], default=["captured"])
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--devices", action="store_true", help="as that of `attnscope attach`")
    parser.add_argument("--folder", help="for recordings (default: in memory)")
    parser.add_argument("options", nargs="*")
    argv = sys.argv[1:]
    cut = argv.index("--") if "--" in argv else len(argv)
    o = parser.parse_args(argv[:cut])
    o.options = argv[cut + 1:]
    if "mean" in o.ways and not o.stream:
        parser.error("the mean comes with --stream")
    folder = tempfile.mkdtemp(prefix="attach-turns-", dir="/dev/shm")
    server = None
    try:
        server = Attached(o, folder)
        for n_prompts in o.prompts:
            measure(o, server, n_prompts)
        server.batch("captured", max(o.prompts))
        server.end()
        print(f"\n{server.switch.n_graphs()} graphs, {server.switch.n_built()} of them built anew")
        print("\n" + server.verify())
    finally:
        if server and server.process.poll() is None:
            server.end()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
