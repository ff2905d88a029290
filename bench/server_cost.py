#!/usr/bin/env python3
"""What attention over HTTP costs: tokens per second at the client, against the same server without attention.

    bench/server_cost.py build/bin/attnscope [-m MODEL] [--context 512] [--tokens 32] [--rounds 12]
                         [--attention-threads N] [--only NAME ...] [--front] [-- OPTIONS OF ATTNSCOPE SERVE]

Two servers over the same file: one as usual, one with --no-attention. Both generate in their own process, or, with --front, are the
engine's own server behind ours. The prompt is read once and then kept by the server
(cache_prompt). Every contestant is measured against a baseline in turns of one request each, baseline, contestant,
contestant, baseline: each follows the other as often as itself, and what the machine does meanwhile hits both alike. Each
such four give one ratio; told are median and quartiles of the ratios, and the interval that holds the median with 95%
confidence (fewer than six rounds cannot tell: then the least and the largest ratio). Time runs from the request to its last event, at the client, which decodes what it gets. Contestants:
    plain             the stream of Halo Weave's endpoint, no attention; against the same of the server that captures nothing
    again             the same request, same baseline as the rest: the measurement's own error, should be 1
    aggregated        the mean over layers and heads, server-sent events; this and what follows against plain
    one head          the row of one head of one layer, server-sent events
    never due         a maximum over all rows that no token but the first is due for: what asking costs by itself
    rows, WebSocket   all rows, raw float32 frames
    rows, SSE         all rows, base64 in the JSON of each event
    rows, one JSON    all rows, base64 in one JSON answer of /api/v1/generate (the server keeps at most 256 MB)
Expected on a CPU: aggregated costs the products Q.K once more, from keys that are near (2 to 3% of a token of SmolLM2 at 512
positions); all rows cost writing, sending and reading them as well, 0.55 MB a token for SmolLM2 at 512; base64 adds a third and its coding.
"""
import argparse
import base64
import contextlib
import http.client
import json
import math
import os
import random
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time

STREAM = "/api/extra/generate/stream"


def stream_events(port, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", STREAM, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        sys.exit(f"the server answered {answer.status}: {answer.read()[:300]}")
    tokens = received = 0
    for line in answer:
        if not line.startswith(b"data: "):
            continue
        event = json.loads(line[6:])
        # Halo Weave's stream names its events; KoboldCPP's ends with a finish_reason
        tokens += event["type"] == "token" if "type" in event else event["finish_reason"] is None
        attention = event.get("attention")
        if attention:
            received += len(base64.b64decode(attention["data"]))
    connection.close()
    return tokens, received


def one_json(port, body):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", "/api/v1/generate", json.dumps(body), {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer["results"][0]["completion_tokens"], sum(len(base64.b64decode(a["data"])) for a in answer["attention"] if a)


class WebSocket:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=600)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall((f"GET {STREAM}/ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n").encode())
        self.file = self.socket.makefile("rb", buffering=1 << 20)
        while self.file.readline() not in (b"\r\n", b""):
            pass

    def send(self, text):
        data = text.encode()
        mask = os.urandom(4)
        head = b"\x81" + (bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data)))
        self.socket.sendall(head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

    def frames(self):
        """(opcode, payload) of whole messages."""
        message = b""
        kind = 0
        while True:
            first, second = self.file.read(2)
            length = second & 127
            if length == 126:
                length = struct.unpack(">H", self.file.read(2))[0]
            elif length == 127:
                length = struct.unpack(">Q", self.file.read(8))[0]
            payload = self.file.read(length)
            if first & 15:
                kind, message = first & 15, payload
            else:
                message += payload
            if first & 128:
                yield kind, message


def over_websocket(port, body):
    ws = WebSocket(port)
    ws.send(json.dumps(body))
    tokens = received = 0
    for kind, payload in ws.frames():
        if kind == 2:
            received += len(payload)
            continue
        event = json.loads(payload)
        if event["type"] == "done":
            break
        if event["type"] != "token":
            sys.exit(f"the server said {event}")
        tokens += 1
    ws.socket.close()
    return tokens, received


class Server:
    def __init__(self, program, model, n_ctx, *more):
        self.process = subprocess.Popen([program, "serve", "-m", model, "-c", str(n_ctx), "--port", "0", *more],
                                        stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit("the server did not start")
        self.port = int(re.search(r":(\d+)\s*$", line).group(1))

    def __enter__(self):
        return self.port

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


def sure(ratios):
    """The interval that holds the median with 95% confidence, by order statistics."""
    n, values = len(ratios), sorted(ratios)
    k = 0
    while 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n <= 0.05:
        k += 1
    return (values[k - 1], values[n - k]) if k else (values[0], values[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("attnscope")
    parser.add_argument("-m", "--model", default="smollm2")
    parser.add_argument("--context", type=int, default=512, help="positions when the last token is generated")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--attention-threads", default="0", help="of the servers; 0: their default")
    parser.add_argument("--only", nargs="+", help="contestants to measure")
    parser.add_argument("--front", action="store_true", help="before the engine's own server")
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = parser.parse_args(sys.argv[1:at])
    options = [*(["-np", "1"] if args.front else ["--in-process"]), *sys.argv[at + 1:]]
    n_ctx = args.context + 64
    with contextlib.ExitStack() as servers:
        port = servers.enter_context(Server(args.attnscope, args.model, n_ctx, "--attention-threads", args.attention_threads, *options))
        off = None
        if not args.only or "plain" in args.only:
            off = servers.enter_context(Server(args.attnscope, args.model, n_ctx, "--no-attention", *options))
        rng = random.Random(1)
        prompt = [rng.randrange(300, 40000) for _ in range(args.context - args.tokens)]
        base = {"input_ids": prompt, "max_length": args.tokens, "temperature": 0, "ban_eos_token": True, "ignore_eos": True}
        plain = lambda: stream_events(port, base)
        contestants = {  # and their baselines
            "plain": (plain, lambda: stream_events(off, base)),
            "again": (plain, plain),
            "aggregated": (lambda: stream_events(port, {**base, "output_attentions": "aggregated"}), plain),
            "one head": (lambda: stream_events(port, {**base, "attention": {"reduce": "none", "layers": [3], "heads": [2]}}), plain),
            "never due": (lambda: stream_events(port, {**base, "attention": {"reduce": "max", "every": 1000000}}), plain),
            "rows, WebSocket": (lambda: over_websocket(port, {**base, "attention": {}}), plain),
            "rows, SSE": (lambda: stream_events(port, {**base, "output_attentions": True}), plain),
            "rows, one JSON": (lambda: one_json(port, {**base, "attention": {}}), plain),
        }
        contestants = {name: c for name, c in contestants.items() if not args.only or name in args.only}

        def seconds(ask, name):
            start = time.perf_counter()
            tokens, received = ask()
            took = time.perf_counter() - start
            if tokens != args.tokens:
                sys.exit(f"{name}: {tokens} tokens instead of {args.tokens}")
            return took, received / tokens

        for ask, baseline in contestants.values():  # once unmeasured: the prompt is read, memory is touched
            baseline(), ask()
        ratios = {name: [] for name in contestants}
        speeds = {name: [] for name in contestants}
        sizes = {}
        try:
            for _ in range(args.rounds):
                order = list(contestants)
                rng.shuffle(order)
                for name in order:
                    ask, baseline = contestants[name]
                    before, _ = seconds(baseline, name)
                    first, sizes[name] = seconds(ask, name)
                    second, _ = seconds(ask, name)
                    after, _ = seconds(baseline, name)
                    ratios[name].append((before + after) / (first + second))
                    speeds[name].append(2 * args.tokens / (first + second))
        except KeyboardInterrupt:
            pass  # what was measured is told
    print(f"{args.model}, {args.context - args.tokens} to {args.context} positions, {args.tokens} tokens a request, {min(map(len, ratios.values()))} rounds")
    print(f"{'':18}{'tokens/s':>9}{'(quartiles)':>16}   {'ratio':>6} {'(quartiles)':>15}  {'(95% sure)' if args.rounds > 5 else '(least-most)':>15}  MB/token")
    for name, values in speeds.items():
        s = statistics.quantiles(values, n=4)
        r = statistics.quantiles(ratios[name], n=4)
        low, high = sure(ratios[name])
        print(f"{name:18}{s[1]:9.2f}  ({s[0]:.2f}-{s[2]:.2f}){'':3}{r[1]:9.3f}   ({r[0]:.3f}-{r[2]:.3f})   ({low:.3f}-{high:.3f})"
              f"  {sizes[name] / 1e6:8.3f}")


if __name__ == "__main__":
    main()
