#!/usr/bin/env python3
"""Clients at once before `attnscope attach --serve` and an Ollama that is on this machine: no answer may carry another request's rows.

    ollama.py --attnscope BIN --ollama PROGRAM --model SmolLM2.gguf --work FOLDER [--clients N] [--requests N] [--parallel N] [--seed N]

Clients ask for prompts of which many are equal at four routes, streamed and not, with attention and without; some go away in the middle.
Every answer names its line in a recording. Afterwards that line's text must be the request's own prompt and what was answered, and every row
must be, bit for bit, the recording's. Needs the Python package of this build. Exits 1 where something is of somebody else.
"""

import argparse
import base64
import collections
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
PROMPTS = ["What is the capital of France?", BEGIN + "What is the capital of France?", BEGIN + "What is the capital of Peru?",
           BEGIN + "Name three colours.", BEGIN * 6 + "The capital of Germany is"]
ROUTES = ["/v1/chat/completions", "/v1/completions", "/api/chat", "/api/generate"]
LAYERS, HEADS = [0, 7], [0, 2]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=600)


class Front:
    def __init__(self, options):
        self.folder, port, own = os.path.join(options.work, "recordings"), free_port(), free_port()
        for folder in (self.folder, os.path.join(options.work, "models")):
            os.makedirs(folder, exist_ok=True)
        for old in os.listdir(self.folder):
            os.remove(os.path.join(self.folder, old))
        environment = {**os.environ, "OLLAMA_HOST": f"127.0.0.1:{own}", "OLLAMA_MODELS": os.path.join(options.work, "models"),
                       "OLLAMA_NUM_PARALLEL": str(options.parallel), "OLLAMA_NO_CLOUD": "1", "HOME": options.work}
        self.log = open(os.path.join(options.work, "log.txt"), "w")
        self.process = subprocess.Popen(
            [options.attnscope, "attach", "-o", self.folder, "--no-verify", "--serve", f"127.0.0.1:{port}", "--", options.ollama,
             "serve"], stdout=self.log, stderr=self.log, env=environment)
        self.url = f"http://127.0.0.1:{port}"
        self.wait()
        with open(os.path.join(options.work, "Modelfile"), "w") as f:
            f.write(f"FROM {os.path.abspath(options.model)}\n")
        subprocess.run([options.ollama, "create", "m", "-f", f.name], env=environment, check=True, stdout=self.log, stderr=self.log)

    def wait(self):
        for _ in range(300):
            try:
                urllib.request.urlopen(self.url + "/api/version", timeout=5).read()
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        sys.exit(f"the program does not answer: see {self.log.name}")

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.log.close()


class Answer:
    def __init__(self, route, stream, prompt):
        self.route, self.stream, self.prompt = route, stream, prompt
        self.text, self.rows, self.end, self.count = "", [], {}, None

    def take(self, part):
        """A part of an answer: an event, a line, or all of it."""
        said = (part.get("choices") or [{}])[0]
        said = said.get("delta") or said.get("message") or said or part.get("message") or part
        self.text += said.get("content") or said.get("text") or said.get("response") or ""
        attention = part.get("attention", [])
        self.rows += attention if isinstance(attention, list) else [attention]
        self.end = part.get("summary", part if "reused" in part else self.end)
        usage = {} if self.stream else part.get("usage", {})  # in a stream it is 0 until somebody asks for it
        self.count = part.get("eval_count", usage.get("completion_tokens", self.count))


def ask(url, rng):
    """One request and what it got; None where the client left, or asked for no attention."""
    answer = Answer(rng.choice(ROUTES), rng.random() < 0.5, rng.choice(PROMPTS))
    chosen = {"temperature": rng.choice([0, 1.5]), "seed": rng.randint(0, 1 << 30)}
    n, wants, leaves = rng.randint(2, 24), rng.random() < 0.7, answer.stream and rng.random() < 0.15
    openai = answer.route.startswith("/v1/")
    body = {"model": "m", "stream": answer.stream}
    body.update({**chosen, "max_tokens": n} if openai else {"options": {**chosen, "num_predict": n}})
    if "chat" in answer.route:
        body["messages"] = [{"role": "user", "content": answer.prompt}]
    else:
        body["prompt"] = answer.prompt
    if wants:
        body.update(attention={"reduce": "none", "layers": LAYERS, "heads": HEADS}, record=True)
    with post(url + answer.route, body) as parts:
        for line in parts:
            line = line.removeprefix(b"data: ").strip()
            if not line or line == b"[DONE]":
                continue
            answer.take(json.loads(line))
            if leaves and answer.text:
                return None
    return answer if wants else None


def client(url, rng, n, answers, failures):
    for _ in range(n):
        try:
            answers.append(ask(url, rng))
        except Exception as e:  # the test ends with all of them
            failures.append(f"{e!r} {e.read()[:300] if hasattr(e, 'read') else ''}")


def wrong(answer, folder, runs):
    """What is wrong with an answer, in words; the number of its rows that were compared."""
    import attnscope  # the package of this build

    key = (answer.end["recording"], answer.end["sequence"])
    if key not in runs:
        runs[key] = attnscope.open(os.path.join(folder, key[0]), sequence=key[1])
    run = runs[key]
    prompt = f"<|im_start|>user\n{answer.prompt}<|im_end|>\n<|im_start|>assistant\n"
    n_prompt, before, pieces = 0, b"", run._pieces
    while len(before) < len(prompt) and n_prompt < len(pieces):
        before += pieces[n_prompt]
        n_prompt += 1
    if before.decode() != prompt:
        return f"its line begins with {before[:80]!r}", 0
    rows = [r for r in answer.rows if r and "error" not in r]
    if [r["index"] for r in rows] != list(range(n_prompt - 1, n_prompt - 1 + len(rows))):
        return "rows of other columns", 0
    if answer.count is not None and len(answer.rows) != answer.count:
        return f"{len(answer.rows)} rows of {answer.count} tokens", 0
    said = b"".join(pieces[n_prompt:n_prompt + len(rows) - 1]).decode(errors="ignore").lstrip()
    told = answer.text.replace("\ufffd", "").lstrip()
    if not (said.startswith(told) or told.startswith(said)):
        return f"its line says {said!r}, the answer {told!r}", 0
    for r in rows:
        if run.answer(r["index"], layers=LAYERS, heads=HEADS).values.tobytes() != base64.b64decode(r["data"]):
            return f"another row at {r['index']}", 0
    return "", len(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("attnscope", "ollama", "model", "work"):
        parser.add_argument("--" + name, required=True)
    for name, default in (("clients", 8), ("requests", 6), ("parallel", 1), ("seed", 1)):
        parser.add_argument("--" + name, type=int, default=default)
    options = parser.parse_args()
    options.work = os.path.abspath(options.work)
    os.makedirs(options.work, exist_ok=True)
    front, answers, failures = Front(options), [], []
    try:
        threads = [threading.Thread(target=client, args=(front.url, random.Random(options.seed * 1000 + i), options.requests, answers,
                                                         failures)) for i in range(options.clients)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        front.end()
    asked, runs, n_rows, refused, bad = [a for a in answers if a], {}, 0, collections.Counter(), list(failures)
    for a in asked:
        errors = [r["error"] for r in a.rows if r and "error" in r]
        if errors or "recording" not in a.end:
            refused[errors[0] if errors else a.end.get("recording_error", "nothing said")] += 1
            continue
        why, n = wrong(a, front.folder, runs)
        n_rows += n
        if why:
            bad.append(f"{a.route}: {why}")
    print(f"{len(answers)} requests, {len(asked)} with attention: {n_rows} rows compared, refused {dict(refused)}")
    for b in bad:
        print("BAD", b)
    return 1 if bad or not n_rows else 0


if __name__ == "__main__":
    sys.exit(main())
