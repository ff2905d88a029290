#!/usr/bin/env python3
"""What `attnscope serve` costs against the engine's own llama-server without us: throughput, first tokens, short beside long.

    bench/serve_turns.py build/bin/attnscope LLAMA_SERVER [-m MODEL.gguf] [--rounds 6] [--tokens 64] [--clients 1 2 4 10] [-- OPTIONS OF BOTH]

Servers of the same file and options (-np 4, 4,096 positions a slot, a stream of the cache for each): llama-server alone, and `attnscope
serve`. Both stay up and are asked one after the other, each round in the other order, so what the machine does meanwhile hits both alike. A round gives one ratio to llama-server alone; told are the median
of the rounds and the interval that holds it with 95% confidence (fewer than six: the least and the largest). Measured at the client:
    N clients     tokens a second of N requests at once, prompts of 32 tokens that nobody has asked before; and the first token's time
    ..., mean     the same with the mean of each token's attention; against llama-server, which has none
    short, long   the first token of a request of 8 tokens while another generates
    turns         two conversations of 1,000 tokens in turns, 24 tokens more each time: the first token of a turn
"""
import argparse
import http.client
import json
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

from server_cost import sure

KEY_OF_NOBODY = random.Random(7)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def tokens(n):
    return [KEY_OF_NOBODY.randrange(300, 40000) for _ in range(n)]


class Server:
    def __init__(self, name, command):
        self.name, self.port = name, free_port()
        self.process = subprocess.Popen([*command, "--port", str(self.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).read()
                return
            except OSError:
                if self.process.poll() is not None:
                    sys.exit(f"{name} ended with {self.process.returncode}: {' '.join(command)}")
                time.sleep(0.1)
        sys.exit(f"{name} does not answer")

    def ask(self, prompt, n, on_first=None, **more):
        """(seconds to the first token, seconds in all, tokens of the answer, rows of attention)"""
        body = {"prompt": prompt, "n_predict": n, "temperature": 0, "ignore_eos": True, "stream": True, "return_tokens": True,
                "cache_prompt": False, **more}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=900)
        began, first, answer, n_answer, rows = time.perf_counter(), None, [], 0, 0
        connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{self.name}: {response.status} {response.read()[:300]}")
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if first is None:
                first = time.perf_counter() - began
                if on_first:
                    on_first()
            answer += event.get("tokens") or []  # without some, where a character is made of several
            n_answer = event.get("tokens_predicted", n_answer)
            rows += "data" in (event.get("attention") or {})
        connection.close()
        if n_answer != n:
            raise RuntimeError(f"{self.name}: {n_answer} tokens of {n}")
        return first, time.perf_counter() - began, answer, rows


def together(server, n_clients, n, **more):
    """tokens a second, median of the seconds to the first token"""
    prompts, results = [tokens(32) for _ in range(n_clients)], []
    threads = [threading.Thread(target=lambda p=p: results.append(server.ask(p, n, **more))) for p in prompts]
    began = time.perf_counter()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    took = time.perf_counter() - began
    if len(results) != n_clients:
        sys.exit(f"{server.name}: {len(results)} answers of {n_clients}")
    if "attention" in more and not all(r[3] for r in results):
        sys.exit(f"{server.name}: an answer without attention")
    return n_clients * n / took, statistics.median(r[0] for r in results)


def short_beside_long(server, n_long):
    begun = threading.Event()
    long = threading.Thread(target=lambda: server.ask(tokens(64), n_long, begun.set))
    long.start()
    begun.wait()
    first = server.ask(tokens(16), 8)[0]
    long.join()
    return first


def conversations(server, n_turns):
    """median of the seconds to the first token of a turn after each conversation's first"""
    texts, firsts = [tokens(1000), tokens(1000)], []
    for turn in range(n_turns + 1):
        for i in range(2):
            first, _, answer, _ = server.ask(texts[i], 8, cache_prompt=True)
            texts[i] = texts[i] + answer + tokens(24)
            if turn > 0:
                firsts.append(first)
    return statistics.median(firsts)


def line(name, values, servers, unit, digits):
    stock = values[servers[0].name]
    cells = [f"{statistics.median(stock):.{digits}f} {unit}"]
    for server in servers[1:]:
        own = [v for v in values[server.name] if v is not None]
        if not own:
            cells.append("")
            continue
        ratios = [a / b for a, b in zip(own, stock)]
        low, high = sure(ratios)
        cells.append(f"{statistics.median(own):.{digits}f} | {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})")
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main():
    arguments = sys.argv[1:]
    options = arguments[arguments.index("--") + 1:] if "--" in arguments else []
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attnscope")
    parser.add_argument("llama_server")
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 2, 4, 10])
    parser.add_argument("--mean", type=int, nargs="*", default=[1, 4], help="numbers of clients that ask for the mean")
    parser.add_argument("--long", type=int, default=300, help="tokens of the long request; 0: not measured")
    parser.add_argument("--turns", type=int, default=3, help="of each conversation; 0: not measured")
    args = parser.parse_args(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    servers = [Server("llama-server", [args.llama_server, "-m", args.model, "-np", "4", "-c", "16384", "--no-kv-unified", "-ub", "512", *options]),
               Server("serve", [args.attnscope, "serve", "-m", args.model, "-np", "4", "-c", "16384", *options])]
    measures = []  # name, unit, digits, function of a server that gives one number or two
    for n in args.clients:
        measures.append((f"{n} clients", "tokens/s", 1, lambda s, n=n: together(s, n, args.tokens)))
    for n in args.mean:
        measures.append((f"{n} clients, mean", "tokens/s", 1,
                         lambda s, n=n: together(s, n, args.tokens, **({} if s is servers[0] else {"attention": {"reduce": "mean"}}))))
    if args.long:
        measures.append(("short beside long: first token", "s", 3, lambda s: short_beside_long(s, args.long)))
    if args.turns:
        measures.append(("two conversations in turns: first token", "s", 3, lambda s: conversations(s, args.turns)))
    try:
        for server in servers:
            server.ask(tokens(32), 16)
        print("| | llama-server | " + " | ".join(f"{s.name} | ratio" for s in servers[1:]) + " |")
        for name, unit, digits, measure in measures:
            values, firsts = {s.name: [] for s in servers}, {s.name: [] for s in servers}
            for r in range(args.rounds):
                for server in servers if r % 2 == 0 else servers[::-1]:
                    value = measure(server)
                    if isinstance(value, tuple):
                        value, first = value
                        firsts[server.name].append(first)
                    values[server.name].append(value)
            line(name, values, servers, unit, digits)
            if firsts["serve"]:
                line(name + ": first token", firsts, servers, "s", 3)
    finally:
        for server in servers:
            server.process.terminate()
        for server in servers:
            server.process.wait(60)


if __name__ == "__main__":
    main()
