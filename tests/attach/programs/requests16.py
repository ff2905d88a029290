"""Asks a llama-server everything at once: 16 requests of different lengths whose prompts share beginnings. Prints what it decoded."""

import json
import threading
import time
import urllib.request

BEGIN = "Answer in one short sentence, please, and give no explanation. "
PROMPTS = ["The capital of France is", BEGIN + "What is the capital of France?", BEGIN + "What is the capital of Peru?",
           BEGIN + "Name three colours.", "The capital of Germany is"]
N_REQUESTS = 16


def post(url, path, body):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=900) as answer:
        return json.load(answer)


def ask_all(url):
    decoded = [None] * N_REQUESTS

    def ask(i):
        prompt = PROMPTS[i % len(PROMPTS)]
        tokens = post(url, "/tokenize", {"content": prompt, "add_special": True})["tokens"]
        answer = post(url, "/completion", {"prompt": prompt, "n_predict": 8 + i, "temperature": 0, "ignore_eos": True,
                                           "cache_prompt": True, "return_tokens": True})
        decoded[i] = tokens + answer["tokens"]

    begin, before = time.perf_counter(), time.process_time()
    threads = [threading.Thread(target=ask, args=(i,)) for i in range(N_REQUESTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = f"{time.perf_counter() - begin} {time.process_time() - before}"
    if None in decoded:
        raise SystemExit("a request was not answered")
    for tokens in decoded:
        print("DECODED " + json.dumps(tokens), flush=True)
    print(f"SECONDS {seconds}", flush=True)
