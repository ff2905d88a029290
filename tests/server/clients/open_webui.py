"""What Open WebUI asks of an OpenAI-compatible connection, asked of `attnscope serve` and of the llama-server that it starts, alone.

  open_webui.py ATTNSCOPE [WORD ...]      run.sh calls it; WORD: those trials alone in whose name it is

Written after its backend/open_webui (routers/openai.py, routers/tasks.py, utils/payload.py, retrieval/utils.py,
retrieval/models/external.py), of which nothing is copied: paths below the connection's URL, headers, fields. Whatever a user adds under
"custom parameters" is a field of the chat's request, parsed as JSON: so is `attention`. Answers are compared but for ids and times; the
trials at the end ask everything else that llama-server answers, too."""
import http.client
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback

from engine import OWN, NoEngineServer, Serve, Stock, assert_same, assert_same_answer

# ENABLE_FORWARD_USER_INFO_HEADERS adds all but the first.
HEADERS = {"Authorization": "Bearer sk-anything", "X-OpenWebUI-User-Name": "A B", "X-OpenWebUI-User-Id": "u1",
           "X-OpenWebUI-User-Email": "a@b.c", "X-OpenWebUI-User-Role": "admin", "X-OpenWebUI-Chat-Id": "c1"}
SYSTEM = {"role": "system", "content": "Be brief."}
CHAT = [SYSTEM, {"role": "user", "content": "What is the sea?"}]
LATER = [*CHAT, {"role": "assistant", "content": "Water."}, {"role": "user", "content": "And the sky?"}]
TASKS = {  # one question of the user's own text, never streamed; `max_completion_tokens` has become `max_tokens`
    "title": ("### Task:\nGenerate a concise, 3-5 word title with an emoji.\n### Output:\nJSON format: { \"title\": \"...\" }\n", 1000),
    "tags": ("### Task:\nGenerate 1-3 broad tags.\n### Output:\nJSON format: { \"tags\": [\"tag1\"] }\n", None),
    "follow-ups": ("### Task:\nSuggest 3-5 follow-up questions.\n### Output:\nJSON format: { \"follow_ups\": [\"?\"] }\n", None),
    "queries": ("### Task:\nAnalyze the chat history and generate search queries.\n", None),
    "autocompletion": ("### Task:\nYou are an autocompletion system.\n<text>The se</text>\n", 20),
    "emoji": ("Reflect the speaker's likely facial expression through a fitting emoji.\n", 4)}
HISTORY = "### Chat History:\n<chat_history>\nUSER: What is the sea?\nASSISTANT: Water.\n</chat_history>"
PARAMETERS = {"temperature": 0.0, "top_p": 0.9, "min_p": 0.05, "max_tokens": 12, "frequency_penalty": 0.1, "presence_penalty": 0.1,
              "seed": 42, "stop": ["\x00"], "logit_bias": {"30": -5}}
TOOL = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {
    "type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}}}
ATTENTION = {"reduce": "mean"}
TOLD = {"attention", "summary", "reused"}  # what `attention` adds to an answer


class Trial:
    def __init__(self, program, model, folder, *more):
        self.ours = Serve(program, model, folder, "-c", "4096", "-np", "1", *more)
        try:
            self.stock = Stock(self.ours)
        except BaseException:
            self.ours.end()
            raise
        self.model = self.ours.get("/v1/models", HEADERS).json["data"][0]["id"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.stock.end()
        finally:
            assert self.ours.end() == 0, open(self.ours.log.name).read()

    # The same of both. What `only` are stock's names is not compared; the rest is equal.
    def both(self, method, path, body=None, without=OWN, headers=HEADERS):
        ours, theirs = [s.get(path, headers) if method == "GET" else s.post(path, body, headers) for s in (self.ours, self.stock)]
        assert_same_answer(ours, theirs, f"{method} {path}", without)
        return ours

    def chat(self, messages=CHAT, **more):
        return {"model": self.model, "messages": messages, **PARAMETERS, **more}


def connection(t):
    t.both("GET", "/v1/models")  # when it is saved, verified, and every time the list of models is drawn
    t.both("GET", "/models")     # of a URL without /v1
    for path in ("/api/version", "/api/tags", "/api/ps"):  # of an Ollama connection: neither is one
        assert t.both("GET", path).status == 404


def chats(t):
    for messages, stream in itertools.product((CHAT, LATER), (True, False)):
        more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {"stream": False}
        answer = t.both("POST", "/v1/chat/completions", t.chat(messages, **more))
        assert answer.status == 200, answer.body
        if stream:
            assert answer.events[-1].strip() == "[DONE]" and answer.events[-2]["usage"]["completion_tokens"] > 0, answer.body
    t.both("POST", "/v1/chat/completions", t.chat(stream=True))  # of a model without the capability "usage"
    t.both("POST", "/v1/chat/completions", t.chat(stream=True, reasoning_effort="low", tools=[TOOL], tool_choice="auto"))
    t.both("POST", "/v1/chat/completions", t.chat(stream=True, response_format={"type": "json_object"}))
    t.both("POST", "/chat/completions", t.chat(stream=False))
    t.both("POST", "/v1/chat/completions", t.chat([{"role": "user", "content": [{"type": "text", "text": "Parts?"}]}], stream=True))


def tasks(t):
    for prompt, most in TASKS.values():
        body = {"model": t.model, "messages": [{"role": "user", "content": prompt + HISTORY}], "stream": False, "temperature": 0,
                "max_tokens": min(most or 16, 16)}
        assert t.both("POST", "/v1/chat/completions", body).status == 200


# The same request with `attention`: the same answer, and rows beside it.
def attention(t):
    for messages, stream in itertools.product((CHAT, LATER), (True, False)):
        more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {"stream": False}
        plain = t.stock.post("/v1/chat/completions", t.chat(messages, **more), HEADERS)
        told = t.ours.post("/v1/chat/completions", t.chat(messages, **more, attention=ATTENTION), HEADERS)
        assert told.status == 200, told.body
        if not stream:
            assert_same(told.json, plain.json, "whole", OWN | TOLD)
            n, rows = told.json["usage"]["completion_tokens"], told.json["attention"]
        else:
            # A token without a chunk of its own comes as one without choices, as that of `usage` does, which is asked for here.
            bare = [e for e in told.events if isinstance(e, dict) and not e["choices"] and "attention" in e]
            assert_same([e for e in told.events if e not in bare], plain.events, "stream", OWN | TOLD)
            n = next(e["usage"]["completion_tokens"] for e in reversed(told.events) if isinstance(e, dict) and "usage" in e)
            rows = [e["attention"] for e in told.events if "attention" in e]
        assert len(rows) == n and all(row.get("verdict") == "ok" for row in rows), (n, rows)
    # A mistake in it is told, in the form in which Open WebUI shows it.
    for wrong in ({"reduce": "nonsense"}, "mean", {"reduce": "mean", "layers": [99]}):
        answer = t.ours.post("/v1/chat/completions", t.chat(stream=True, attention=wrong), HEADERS)
        assert answer.status == 400 and answer.error, (wrong, answer.status, answer.body)


# Its stop button ends the connection; so does closing the page. The slot is free at once.
def leaving(t):
    for more in ({}, {"attention": ATTENTION}):
        for server in (t.ours, t.stock) if not more else (t.ours,):
            body = t.chat(stream=True, **more)
            body.update(max_tokens=3000, ignore_eos=True)
            connection = http.client.HTTPConnection(server.base.split("//")[1], timeout=60)
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json", **HEADERS})
            answer = connection.getresponse()
            assert answer.status == 200 and answer.read(64)
            answer.close()
            connection.close()
            until = time.monotonic() + 20
            while any(slot["is_processing"] for slot in server.get("/slots").json):
                assert time.monotonic() < until, "it still generates for nobody"
                time.sleep(0.02)
    t.both("POST", "/v1/chat/completions", t.chat(stream=False), OWN | {"prompt_tokens_details"})


def refusals(t):
    t.both("POST", "/v1/embeddings", {"input": ["The sea", "The sky"], "model": t.model})  # no --embedding: refused
    t.both("POST", "/v1/rerank", {"model": t.model, "query": "sea", "documents": ["a", "b"], "top_n": 2})
    for body in (b"{", b"[]", b"", {}, {"messages": "no list"}, {"messages": [], "temperature": 0, "max_tokens": 4},
                 t.chat(response_format={"type": "nonsense"})):
        t.both("POST", "/v1/chat/completions", body)
    t.both("POST", "/v1/audio/transcriptions", {"file": "none"})
    t.both("POST", "/v1/audio/speech", {"input": "The sea", "voice": "alloy", "model": "tts-1"})
    t.both("POST", "/v1/images/generations", {"prompt": "The sea", "n": 1})


# What others ask of llama-server.
def other_routes(t):
    for path in ("/health", "/v1/health", "/slots", "/lora-adapters", "/v1/models", "/no/such/thing", "/metrics", "/tools"):
        t.both("GET", path)
    t.both("GET", "/props")
    for path, body in {"/tokenize": {"content": "The sea", "add_special": True, "with_pieces": True}, "/detokenize": {"tokens": [70, 71]},
                       "/apply-template": {"messages": CHAT}, "/v1/chat/completions/input_tokens": {"messages": CHAT},
                       "/completion": {"prompt": "The sea", "n_predict": 6, "temperature": 0, "n_probs": 2},
                       "/completions": {"prompt": "The sea", "n_predict": 6, "temperature": 0, "stream": True},
                       "/v1/completions": {"prompt": ["The sea", "A ship"], "max_tokens": 6, "temperature": 0},
                       "/v1/responses": {"input": "The sea", "max_output_tokens": 6, "temperature": 0},
                       "/v1/messages": {"max_tokens": 6, "temperature": 0, "messages": CHAT[1:]},
                       "/v1/messages/count_tokens": {"messages": CHAT[1:]}, "/infill": {"input_prefix": "a", "input_suffix": "b"},
                       "/lora-adapters": [], "/props": {}, "/slots/0?action=erase": {}, "/embedding": {"content": "The sea"}}.items():
        t.both("POST", path, body)


# Embeddings and metrics, which llama-server gives when it is told to.
def embeddings(t):
    answer = t.both("POST", "/v1/embeddings", {"input": ["The sea", "The sky and the ships"], "model": t.model})
    assert answer.status == 200 and len(answer.json["data"]) == 2, answer.body
    t.both("POST", "/embeddings", {"input": "The sea", "model": t.model})
    ours, theirs = (set(line.split(" ")[0] for line in s.get("/metrics").body.decode().splitlines()) for s in (t.ours, t.stock))
    assert ours == theirs and len(ours) > 5, ours ^ theirs


# The key that a connection is given is one of ours; the engine's own server has another, which nobody knows.
def keys(t):
    for path, body in (("/v1/models", None), ("/v1/chat/completions", t.chat(stream=True))):
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            refused = t.ours.get(path, headers) if body is None else t.ours.post(path, body, headers)
            assert refused.status == 401 and refused.error, (path, refused.status, refused.body)
        t.both("GET" if body is None else "POST", path, body)


TRIALS = {trial: [] for trial in (connection, chats, tasks, attention, leaving, refusals, other_routes)} | {
    embeddings: ["--embedding", "--pooling", "mean", "--metrics"], keys: ["--api-key", "sk-anything"]}


def main():
    failed = 0
    for trial, options in TRIALS.items():
        name = f"Open WebUI's requests: {trial.__name__.replace('_', ' ')}"
        if not all(word in name for word in sys.argv[2:]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            model = os.path.join(folder, "m.gguf")
            subprocess.run([sys.argv[1], "models", "make", "--layers", "3", "-o", model], check=True, stdout=subprocess.DEVNULL)
            try:
                with Trial(sys.argv[1], model, os.path.join(folder, "recordings"), *options) as t:
                    trial(t)
                print(f"{name}: as it should", flush=True)
            except NoEngineServer as e:
                print(f"skipped: {e}")
                return 0
            except Exception:
                failed += 1
                print(f"{name}: FAILED\n{traceback.format_exc()}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
