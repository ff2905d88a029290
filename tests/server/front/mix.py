#!/usr/bin/env python3
"""Many clients at once before `attnscope attach --serve`: no answer may carry another request's rows.

    mix.py --attnscope BIN --work FOLDER [--requests N] [--seed N] -- PROGRAM ARGS...      (PROGRAM is given --port PORT)

Sixteen clients ask for prompts of which many are equal, streamed and not, with attention and without, in llama-server's words and
OpenAI's; some go away in the middle. Afterwards every row is held, bit for bit, against the recordings: the rows of one answer must
all be of one line of text, whose tokens are those of the prompt and of the answer. Prints what was compared; exits 1 where a row is
of something else. An answer may say that it has no attention; how many did is printed, and may be no more than --refused of them.
"""

import argparse
import base64
import collections
import glob
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

BEGIN = "Answer in one short sentence, please, and give no explanation. "
PROMPTS = ["The capital of France is", BEGIN + "What is the capital of France?", BEGIN + "What is the capital of Peru?",
           BEGIN + "Name three colours.", BEGIN * 6 + "The capital of Germany is"]
N_CLIENTS = 16


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Front:
    def __init__(self, options, program):
        self.port, self.folder = free_port(), os.path.join(options.work, "recordings")
        os.makedirs(self.folder, exist_ok=True)
        for old in glob.glob(self.folder + "/*"):
            os.remove(old)
        self.log = open(os.path.join(options.work, "log.txt"), "w")
        port = str(free_port())
        self.process = subprocess.Popen(
            [options.attnscope, "attach", "-o", self.folder, "--no-verify", "--serve", f"127.0.0.1:{self.port}", "--to",
             f"127.0.0.1:{port}", "--", *program, "--port", port], stdout=self.log, stderr=self.log)
        self.url = f"http://127.0.0.1:{self.port}"
        for _ in range(600):
            if self.process.poll() is not None:
                sys.exit(f"the program ended with {self.process.returncode}: see {self.log.name}")
            try:
                urllib.request.urlopen(self.url + "/health", timeout=5).read()
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        sys.exit("the program does not answer")

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


def post(url, path, body, timeout=900):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=timeout)


def events(answer):
    for line in answer:
        if line.startswith(b"data: ") and line[6:].strip() != b"[DONE]":
            yield json.loads(line[6:])


class Answer:
    """What one request got: prompt tokens, the tokens it was told (or None), and (index, bytes of a row) for each."""

    def __init__(self, kind, prompt):
        self.kind, self.prompt, self.tokens, self.rows, self.errors, self.text = kind, prompt, [], [], [], ""
        self.expected, self.complete = 0, False

    # Of a whole answer; an error in place of the rows is of all of them.
    def take_all(self, attention):
        for one in [attention] if isinstance(attention, dict) else attention:
            self.take(one)

    def take(self, attention):
        if attention is None:
            self.errors.append("null")
        elif "error" in attention:
            self.errors.append(attention["error"])
        else:
            self.rows.append((attention["index"], tuple(attention["shape"]), base64.b64decode(attention["data"])))


def completion(url, rng, answer, body, leave):
    body = {**body, "prompt": answer.prompt_text, "n_predict": rng.randint(2, 24)}
    stream = "stream" in answer.kind
    body["stream"] = stream
    if not stream:
        body["return_tokens"] = True
        with post(url, "/completion", body) as a:
            out = json.load(a)
        if "attention" in body:
            answer.tokens = out["tokens"]
            answer.expected = out["tokens_predicted"]
            answer.take_all(out["attention"])
        answer.complete = True
        return
    with post(url, "/completion", body) as a:
        for n, event in enumerate(events(a)):
            if event.get("stop"):
                answer.expected = event["tokens_predicted"]
                answer.complete = True
                break
            if "attention" in event:
                answer.take(event["attention"])
            answer.tokens += event.get("tokens") or [None]
            if leave is not None and n >= leave:
                return


def openai(url, rng, answer, body, leave):
    chat = "chat" in answer.kind
    stream = "stream" in answer.kind
    body = {**body, "max_tokens": rng.randint(2, 24), "stream": stream}
    if chat:
        body["messages"] = [{"role": "user", "content": answer.prompt_text}]
    else:
        body["prompt"] = answer.prompt_text
    with post(url, "/v1/chat/completions" if chat else "/v1/completions", body) as a:
        if not stream:
            out = json.load(a)
            answer.expected = out["usage"]["completion_tokens"]
            answer.take_all(out.get("attention", []))
            answer.complete = True
            return
        for n, event in enumerate(events(a)):
            if "attention" in event:
                answer.take(event["attention"])
            if leave is not None and n >= leave:
                return
    answer.complete = True


def client(url, rng, n_requests, answers, failures):
    for _ in range(n_requests):
        text = rng.choice(PROMPTS)
        kind = rng.choice(["completion", "completion stream", "openai", "openai stream", "chat", "chat stream"])
        body = {"temperature": rng.choice([0, 1.5]), "seed": rng.randint(0, 1 << 30), "ignore_eos": rng.random() < 0.5,
                "cache_prompt": rng.random() < 0.8}
        wants = rng.random() < 0.75
        if wants:
            body["attention"] = {"reduce": "none", "layers": [0, 7], "heads": [0, 3]}
        leave = rng.randint(0, 4) if "stream" in kind and rng.random() < 0.2 else None
        answer = Answer(kind, None)
        answer.prompt_text = text
        try:
            (completion if kind.startswith("completion") else openai)(url, rng, answer, body, leave)
        except Exception as e:  # the test ends with all of them
            failures.append(f"{kind}: {e!r} {e.read()[:300] if hasattr(e, 'read') else ''}")
            continue
        if wants:
            answers.append(answer)


def prompt_tokens(url, answer):
    text = answer.prompt_text
    if answer.kind.startswith("chat"):
        with post(url, "/apply-template", {"messages": [{"role": "user", "content": text}]}) as a:
            text = json.load(a)["prompt"]
    with post(url, "/tokenize", {"content": text, "add_special": True, "parse_special": True}) as a:
        return json.load(a)["tokens"]


def lines_of(folder):
    import attnscope  # the package of this build

    lines = []
    for path in sorted(glob.glob(folder + "/*.attn")):
        run = attnscope.open(path)
        for sequence in run.sequences:
            one = attnscope.open(path, sequence=sequence["id"])
            if len(one):
                lines.append((path, sequence["id"], one, one.tokens.tolist()))
    return lines


def rows_at(run, index, cache):
    key = (id(run), index)
    if key not in cache:
        rows = run.answer(index, layers=[0, 7], heads=[0, 3]).values
        cache[key] = rows.tobytes()
    return cache[key]


def check(answer, lines, cache, first_of):
    """Lines of text that all rows of this answer are of; an empty list: some row is of none."""
    prompt = answer.prompt
    found = []
    for path, number, run, tokens in lines:
        last = max((index for index, _, _ in answer.rows), default=-1)
        if last >= len(tokens) or tokens[:len(prompt)] != prompt:
            continue
        told = answer.tokens
        if any(t is not None and len(prompt) + i <= last and tokens[len(prompt) + i] != t for i, t in enumerate(told)):
            continue
        if all(rows_at(run, index, cache) == data for index, _, data in answer.rows):
            found.append((path, number))
    return found


def main():
    at = sys.argv.index("--")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attnscope", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--requests", type=int, default=6, help="of each client")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--refused", type=float, default=0.1, help="share of answers that may have no attention")
    options = parser.parse_args(sys.argv[1:at])
    os.makedirs(options.work, exist_ok=True)

    front = Front(options, sys.argv[at + 1:])
    answers, failures = [], []
    try:
        began = time.monotonic()
        threads = [threading.Thread(target=client, args=(front.url, random.Random(options.seed * 1000 + i), options.requests,
                                                         answers, failures)) for i in range(N_CLIENTS)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        seconds = time.monotonic() - began
        known = {}
        for a in answers:
            key = (a.kind.startswith("chat"), a.prompt_text)
            if key not in known:
                known[key] = prompt_tokens(front.url, a)
            a.prompt = known[key]
    finally:
        front.end()
    for f in failures:
        print("FAILED", f)

    lines, cache, bad = lines_of(front.folder), {}, []
    counts = collections.Counter()
    for a in answers:
        counts["answers"] += 1
        counts["rows"] += len(a.rows)
        if a.errors:
            counts["answers without some attention"] += 1
        indices = [index for index, _, _ in a.rows]
        if indices != list(range(len(a.prompt) - 1, len(a.prompt) - 1 + len(indices))):
            bad.append(f"{a.kind}: rows of columns {indices} after a prompt of {len(a.prompt)} tokens")
        elif a.complete and a.expected and not a.errors and len(a.rows) != a.expected:
            bad.append(f"{a.kind}: {len(a.rows)} rows of {a.expected} tokens")
        elif a.rows and not check(a, lines, cache, None):
            bad.append(f"{a.kind}: rows of {len(a.rows)} tokens are of no line that says the same ({a.prompt_text[-30:]!r})")
    for reason, n in collections.Counter(e for a in answers for e in a.errors[:1]).items():
        print(f"{n} x {reason}")
    print(f"{N_CLIENTS} clients, {seconds:.1f} s, {len(lines)} lines recorded: " +
          ", ".join(f"{n} {what}" for what, n in counts.items()))
    for b in bad:
        print("BAD", b)
    refused = counts["answers without some attention"] / max(counts["answers"], 1)
    return 1 if bad or failures or not counts["rows"] or refused > options.refused else 0


if __name__ == "__main__":
    sys.exit(main())
