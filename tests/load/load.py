#!/usr/bin/env python3
"""200 clients, most of them bad, against the real server and the real model; one good client throughout.

    tests/load/load.py build/bin/attnscope [--in-process] [--seconds 30] [--clients 200] [--seed 1] [--samples FILE] [--only-lives]

Asks: does the server live, does its memory stay flat, does it end when it is told to while clients hang on it, and does the
good client get its answer at not less than half the speed (tokens per second from its first to its last token) that it has
alone? Waiting for a turn is told, not judged: one generation at a time is written (-np 1), or what the good client is slowed by would
be its neighbours in a batch of the engine's.
Ends with 1 when an answer is no. Loopback only.

Flat: the memory of attnscope's own process (RssAnon, sampled each second) is never more than MOST_OVER_REST, and one body as large as it
takes them, above what it was after its first answers; and in runs of two minutes and more a straight line through the last two thirds (least squares through the
medians of ten-second slices) rises by no more than MOST_RISE over them. --samples writes what was sampled as CSV.
Memory of llama-server behind it is told, not judged: it is the engine's. --only-lives judges the life alone: builds with sanitizers
have speeds and memory of their own.
"""
import argparse
import asyncio
import base64
import json
import random
import re
import signal
import statistics
import struct
import subprocess
import sys
import time
import weakref

STREAM = "/api/extra/generate/stream"
counts = {}
host = ""  # 127.0.0.1:PORT, as the Host header must say


def count(what):
    counts[what] = counts.get(what, 0) + 1


def post(path, body, headers=()):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", f"Content-Length: {len(body)}",
             "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


connections = weakref.WeakSet()


async def connect(port):
    reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port), 20)
    connections.add(writer.transport)  # outlives the writer of a client that was cancelled
    return reader, writer


async def hang_up(crowd):
    """Ends all clients at once: what they wait for may take minutes."""
    for client in crowd:
        client.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)
    for transport in list(connections):
        transport.abort()


async def answer_of(port, request, seconds=60):
    """Status and body of an answer that comes whole."""
    reader, writer = await connect(port)
    try:
        writer.write(request)
        await writer.drain()
        data = await asyncio.wait_for(reader.read(), seconds)
    finally:
        writer.close()
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]) if head.startswith(b"HTTP/1.") else 0, body


# ---- the bad clients: each does one bad thing and leaves ------------------------------------------------------------

async def slow_reader(port, rng):
    reader, writer = await connect(port)
    writer.write(post(STREAM, {"prompt": "The sea is", "max_length": 24, "temperature": 0, "output_attentions": True,
                               "attention": {"flow": rng.choice(["lossless", "latest"])}}))
    await writer.drain()
    for _ in range(rng.randrange(2, 12)):
        if not await asyncio.wait_for(reader.read(512), 60):
            break
        await asyncio.sleep(0.3)
    writer.close()


async def vanishing(port, rng):
    reader, writer = await connect(port)
    writer.write(post(STREAM, {"prompt": "Once upon a time", "max_length": 400, "ignore_eos": True,
                               "output_attentions": rng.choice([True, "aggregated", False])}))
    await writer.drain()
    await asyncio.wait_for(reader.read(rng.randrange(1, 4000)), 60)
    # A reset instead of a farewell.
    writer.get_extra_info("socket").setsockopt(1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER
    writer.close()


async def garbage(port, rng):
    reader, writer = await connect(port)
    writer.write(rng.randbytes(rng.randrange(1, 20000)))
    await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    await asyncio.wait_for(reader.read(), 90)
    writer.close()


async def half_request(port, rng):
    reader, writer = await connect(port)
    whole = post(STREAM, {"prompt": "x" * 3000, "max_length": 5})
    writer.write(whole[: rng.randrange(1, len(whole) - 1)])
    await writer.drain()
    await asyncio.sleep(rng.uniform(0.5, 8))
    writer.close()


async def huge_body(port, rng):
    reader, writer = await connect(port)
    size = 100 << 20
    chunked = rng.random() < 0.5
    writer.write(f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\n".encode() +
                 (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else f"Content-Length: {size}\r\n\r\n".encode()))
    piece = b" " * (1 << 20)
    try:
        for _ in range(100):
            writer.write(b"100000\r\n" + piece + b"\r\n" if chunked else piece)
            await asyncio.wait_for(writer.drain(), 30)
        count("huge body taken")
    finally:
        writer.close()


# Of ours: refused as the client's mistake.
REFUSED = [
    (STREAM, b'{"prompt": "\xff\xfe\xc3\x28"}'),
    (STREAM, b'{"prompt": "\xed\xa0\x80"}'),
    (STREAM, {"input_ids": [49152]}),
    (STREAM, {"input_ids": [-1]}),
    (STREAM, {"input_ids": [1 << 63]}),
    (STREAM, {"input_ids": [1.5, None, "a"]}),
    (STREAM, {"input_ids": [1] * 5000, "output_attentions": True}),
    (STREAM, {"prompt": "a", "max_length": -5}),
    (STREAM, {"prompt": "a", "temperature": -1e308}),
    (STREAM, b'{"prompt": "a", "temperature": 1e999}'),
    (STREAM, {"prompt": "a", "top_k": 1 << 62}),
    (STREAM, {"prompt": "a", "attention": {"layers": [99999]}}),
    (STREAM, {"prompt": "a", "attention": {"spans": [[-1, 1 << 60]]}}),
    (STREAM, {"prompt": "a", "attention": {"top_k": 1e300}}),
    (STREAM, {"prompt": "a", "attention": [[]]}),
    ("/api/v1/prune", {"scores": [1e308] * 10, "budget": -9}),
    ("/api/v1/prune", {"recording": "../../etc/passwd", "budget": 3}),
    (STREAM, b"[" * 200000),
    ("/api/v1/generate", b'{"prompt": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}"),
    ("/api/v1/detokenize", b"{"),
    ("/v1/completions", {"prompt": "a", "attention": {"layers": [99999]}}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "attention": {"reduce": "nonsense"}}),
]
# Of llama-server, behind us or nowhere (--in-process): in its own way, which may be 500.
THEIRS = [
    ("/v1/chat/completions", b"[" * 200000),
    ("/v1/completions", b'{"prompt": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}"),
    ("/v1/chat/completions", {"messages": "hello"}),
    ("/v1/chat/completions", b""),
    ("/detokenize", {"tokens": [99999999]}),
]


async def refused(port, rng):
    path, body = rng.choice(REFUSED + THEIRS)
    status, text = await answer_of(port, post(path, body))
    if status == 503:
        return count("told to come again")
    if status == 0:
        return count("closed without an answer")
    if not 400 <= status < (600 if (path, body) in THEIRS else 500):
        count("WRONG: accepted")
        print(f"accepted with {status}: {path} {str(body)[:80]}: {text[:120]}", file=sys.stderr)


async def broken_websocket(port, rng):
    reader, writer = await connect(port)
    key = base64.b64encode(rng.randbytes(16)).decode()
    writer.write(f"GET {STREAM}/ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
    await writer.drain()
    await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    kind = rng.randrange(3)
    if kind == 0:  # no frame at all
        writer.write(rng.randbytes(500))
    elif kind == 1:  # a frame that claims 2^62 bytes
        writer.write(b"\x81\xff" + struct.pack(">Q", 1 << 62) + b"abcd")
    else:  # a request, and then nobody reads
        text = json.dumps({"prompt": "a", "max_length": 50, "ignore_eos": True, "attention": {}}).encode()
        writer.write(b"\x81\xfe" + struct.pack(">H", len(text)) + b"\0\0\0\0" + text)
    await writer.drain()
    await asyncio.sleep(rng.uniform(0.1, 3))
    writer.close()


BAD = [slow_reader, vanishing, garbage, half_request, refused, refused, refused, broken_websocket]


async def bad_client(port, rng, until, big_bodies):
    while time.monotonic() < until:
        act = rng.choice(BAD)
        if rng.random() < 0.01 and not big_bodies.locked():
            act = huge_body
        try:
            if act is huge_body:
                async with big_bodies:
                    await act(port, rng)
            else:
                await act(port, rng)
            count(act.__name__)
        except asyncio.TimeoutError:
            count(act.__name__ + ", timed out")
        except (OSError, asyncio.IncompleteReadError):  # the server closed first, as it should
            count(act.__name__ + ", cut off")
        await asyncio.sleep(rng.uniform(0.5, 4))


# ---- the good client -----------------------------------------------------------------------------------------------

GOOD = {"prompt": "The capital of France is", "max_length": 32, "temperature": 0, "ban_eos_token": True}


async def good_request(port):
    """Tokens per second from the first to the last, and seconds until the first."""
    start = time.monotonic()
    while True:
        reader, writer = await connect(port)
        writer.write(post(STREAM, GOOD))
        await writer.drain()
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 300)
        if b" 200 " in head.split(b"\r\n")[0]:
            break
        writer.close()
        if b" 503 " not in head.split(b"\r\n")[0]:
            raise RuntimeError(f"the good request was refused: {head[:200]!r}")
        count("good request told to come again")
        await asyncio.sleep(0.2)
    first = last = None
    n = 0
    while line := await asyncio.wait_for(reader.readline(), 300):
        if line.startswith(b"data: "):
            last = time.monotonic()
            first = first or last
            n += 1
    writer.close()
    if n < 20:
        raise RuntimeError(f"the good request got {n} tokens")
    return (n - 1) / (last - first), first - start


PATIENCE = 20         # seconds that an answer may take after the end of the run
MOST_OVER_REST = 60   # MB
MOST_BODY = 64        # MB; with --in-process 8, which MOST_OVER_REST holds. One huge body comes at a time
MOST_RISE = 8         # MB, over the last two thirds of the run


def sample(pid):
    """(MB of its own, MB resident, threads): the model's file is mapped and counts in the second alone."""
    with open(f"/proc/{pid}/status") as f:
        text = f.read()
    number = lambda name: int(re.search(name + r":\s+(\d+)", text).group(1))
    return number("RssAnon") / 1024, number("VmRSS") / 1024, number("Threads")


def engine_of(pid):
    """MB of its own of the engine's server behind; 0 where there is none."""
    child = subprocess.run(["pgrep", "-o", "-P", str(pid)], stdout=subprocess.PIPE, text=True, check=False).stdout.split()
    return sample(child[0])[0] if child else 0


def rise(samples):
    """MB by which the memory rises over the last two thirds, by a straight line through medians of ten seconds."""
    late = [s[1] for s in samples[len(samples) // 3 :]]
    slices = [statistics.median(late[i : i + 10]) for i in range(0, len(late) - 9, 10)]
    if len(slices) < 3:
        return None
    slope, _ = statistics.linear_regression(range(len(slices)), slices)
    return slope * (len(slices) - 1)


async def ask_now_and_then(port):
    """llama-server lets requests that wait go on when another one ends. Where the one that it chose next is cancelled or refused instead,
    those behind it wait for whoever comes next, however idle it is."""
    while True:
        await asyncio.sleep(5)
        try:
            await answer_of(port, post("/api/v1/generate", {"prompt": "a", "max_length": 1}))
        except (OSError, asyncio.TimeoutError):
            pass


async def run(port, pid, args):
    rng = random.Random(args.seed)
    await good_request(port)
    alone = [(await good_request(port))[0] for _ in range(5)]
    print(f"alone: {statistics.median(alone):.1f} tokens/s", flush=True)
    start = time.monotonic()
    until = start + args.seconds
    big_bodies = asyncio.Lock()
    rest, engine = sample(pid), [engine_of(pid)]
    samples, speeds, waits = [], [], []
    crowd = [asyncio.create_task(bad_client(port, random.Random(rng.random()), until, big_bodies)) for _ in range(args.clients)]

    async def watch_memory():
        while True:
            await asyncio.sleep(1)
            samples.append((time.monotonic() - start, *sample(pid)))
            if len(samples) % 10 == 0:
                engine.append(engine_of(pid))

    watch = asyncio.create_task(watch_memory())
    while time.monotonic() < until:
        try:
            speed, wait = await asyncio.wait_for(good_request(port), until + PATIENCE - time.monotonic())
        except asyncio.TimeoutError:
            count("good request without an answer when time was up")
            break
        except (OSError, asyncio.IncompleteReadError):
            count("WRONG: good request cut off")
            continue
        speeds.append(speed)
        waits.append(wait)
        await asyncio.sleep(0.2)
    watch.cancel()
    await hang_up(crowd)
    others = asyncio.create_task(ask_now_and_then(port))
    after = [await asyncio.wait_for(good_request(port), 60) for _ in range(3)][-1][0]
    others.cancel()
    await asyncio.sleep(3)
    return alone, speeds, waits, after, rest, samples, sample(pid), engine + [engine_of(pid)]


async def hang_on(port, rng, n):
    """Clients that do what they do until the server ends."""
    forever = time.monotonic() + 1e9
    crowd = [asyncio.create_task(bad_client(port, random.Random(rng.random()), forever, asyncio.Lock())) for _ in range(n)]
    await asyncio.sleep(3)
    return crowd


async def end(server, port, args):
    """Seconds that the server takes to end among clients, and its exit code."""
    crowd = await hang_on(port, random.Random(args.seed + 1), min(args.clients, 50))
    start = time.monotonic()
    server.send_signal(signal.SIGTERM)
    while server.poll() is None and time.monotonic() - start < 60:
        await asyncio.sleep(0.05)
    seconds = time.monotonic() - start
    await hang_up(crowd)
    return seconds, server.poll()


async def whole(server, port, args):
    told = await run(port, server.pid, args)
    alive = server.poll() is None
    return told, alive, await end(server, port, args)


def main():
    global host
    parser = argparse.ArgumentParser()
    parser.add_argument("attnscope")
    parser.add_argument("--in-process", action="store_true", help="no llama-server: attnscope generates itself")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--samples", help="file for the samples of memory")
    parser.add_argument("--only-lives", action="store_true", help="judge neither speed nor memory")
    args = parser.parse_args()
    how = ["--in-process", "--stall", "5"] if args.in_process else ["-np", "1", "--keys-mb", "16"]
    server = subprocess.Popen([args.attnscope, "serve", "-m", "smollm2", "-c", "1024", "--port", "0", "--timeout", "10", *how],
                              stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        port = int(re.search(r":(\d+)\s*$", line).group(1))
        host = f"127.0.0.1:{port}"
        told, alive, (ending, code) = asyncio.run(whole(server, port, args))
    finally:
        server.kill()

    alone, speeds, waits, after, rest, samples, at_end, engine = told
    if args.samples:
        with open(args.samples, "w") as f:
            f.write("seconds,anon_mb,resident_mb,threads\n")
            f.writelines(f"{s:.1f},{a:.1f},{r:.1f},{t}\n" for s, a, r, t in samples)
    if not speeds:
        print("FAILED: the good client got no answer")
        return 1
    usual, among = statistics.median(alone), statistics.median(speeds)
    highest = max(s[1] for s in samples)
    rose = rise(samples) if args.seconds >= 120 else None
    print("what the bad clients did: " + ", ".join(f"{k} {v}" for k, v in sorted(counts.items())))
    print(f"good client alone: {usual:.1f} tokens/s; among them: median {among:.1f}, slowest {min(speeds):.1f} of {len(speeds)} "
          f"answers ({among / usual:.2f} of alone); afterwards {after:.1f}")
    print(f"waited for its turn: median {statistics.median(waits):.2f} s, longest {max(waits):.2f} s")
    print(f"memory of its own: {rest[0]:.0f} MB before, {highest:.0f} MB at most, {at_end[0]:.0f} MB after"
          + ("" if rose is None else f"; over the last two thirds it rose by {rose:.1f} MB")
          + f"; threads: {rest[2]} before, {max(s[3] for s in samples)} at most, {at_end[2]} after")
    if engine[0]:
        print(f"memory of llama-server: {engine[0]:.0f} MB before, {max(engine):.0f} MB at most, {engine[-1]:.0f} MB at the end")
    print(f"ended among clients in {ending:.1f} s")
    failures = []
    if not alive or code != 0:
        failures.append(f"the server ended with {code}")
    if ending > 20 and not args.only_lives:
        failures.append("the server took too long to end")
    if among < usual / 2 and not args.only_lives:
        failures.append("the good client was slowed to less than half")
    most_over_rest = MOST_OVER_REST + (0 if args.in_process else MOST_BODY)
    if highest > rest[0] + most_over_rest and not args.only_lives:
        failures.append(f"memory grew by more than {most_over_rest} MB")
    if rose is not None and rose > MOST_RISE and not args.only_lives:
        failures.append(f"memory went on rising")
    if counts.get("WRONG: accepted") or counts.get("huge body taken"):
        failures.append("something was accepted that must be refused")
    if counts.get("WRONG: good request cut off"):
        failures.append("the good client was cut off")
    for failure in failures:
        print("FAILED: " + failure)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
