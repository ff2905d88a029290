"""Pictures through `attnscope serve`: stock's answers, and never a row over columns that are a picture's.

  pictures.py ATTNSCOPE [WORD ...]      run.sh calls it; WORD: those alone in whose name it is

Of three kinds of projector, each with a made model: LLaVA's (a patch a position), Gemma 3's (patches see one another; layers with a
window), Qwen2-VL's (several patches share a position). Conversations go through ours and through stock alike, so that both have the same
in their caches. Rows of text that was asked for after a picture are held against the recording that the answer names, and against a server
that never saw a picture; where there are none, a sentence says why.

Where patches see one another llama.cpp makes its scheduler anew for each picture: what was read before is known all the same."""
import base64
import io
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import traceback

import numpy
import openai
from PIL import Image

import made_projector
from engine import OWN, NoEngineServer, Serve, Stock, assert_same

COMMON = ["-c", "2048", "--no-warmup"]
OPTIONS = {"max_tokens": 8, "temperature": 0}
ATTENTION = {"reduce": "none"}
REFUSAL = "what they become is not captured"


def picture(seed, size=(48, 32)):
    image = Image.new("RGB", size)
    image.putdata([((x * 7 + seed * 31) % 256, (y * 11 + seed) % 256, (x * y + seed * 5) % 256)
                   for y in range(size[1]) for x in range(size[0])])
    png = io.BytesIO()
    image.save(png, "PNG")
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()}}


def user(*parts):
    return {"role": "user", "content": [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]}


def said(text):
    return {"role": "assistant", "content": text}


# A conversation turns to a picture, and back: what follows the words before it takes the cells that were the picture's.
BEGIN = "Look at this carefully, please, and "
WITH_PICTURE = [user(BEGIN, picture(1), "say what it is.")]
WITHOUT = [{"role": "user", "content": BEGIN + "tell me of the sea and of the ships that are on it."}]
OTHER = [{"role": "user", "content": "Something else."}]


class Trial:
    """One kind of model before both servers."""

    def __init__(self, program, kind, folder, more):
        self.program, self.folder, self.more = program, folder, more
        self.model, projector = made(program, kind, folder)
        # Of several slots ours takes another one than stock does, with another beginning in its cache.
        self.without = OWN if "1" in more else OWN | {"prompt_tokens_details"}
        self.ours = Serve(program, self.model, os.path.join(folder, "recordings"), "--mmproj", projector, *COMMON, *more)
        try:
            self.stock = Stock(self.ours)
        except BaseException:
            self.ours.end()
            raise
        self.rows = []  # of answers: recording, line, index, rows
        self.texts = []  # what was asked with attention, and the rows
        self.refused = []  # why there was no attention

    def end(self):
        try:
            self.stock.end()
        finally:
            assert self.ours.end() == 0, open(self.ours.log.name).read()

    # Both answer the same, whole and as a stream; the client library reads them.
    def both(self, messages, **more):
        clients = [openai.OpenAI(base_url=s.base + "/v1", api_key="none", max_retries=0) for s in (self.ours, self.stock)]
        for stream in (False, True):
            answers = [c.chat.completions.create(model="any", messages=messages, stream=stream, **OPTIONS, **more) for c in clients]
            told = [[part.model_dump() for part in a] if stream else a.model_dump() for a in answers]
            assert_same(told[0], told[1], f"{'stream' if stream else 'whole'} of {str(messages)[:60]}", self.without)
        return told[0]

    # Text with attention: stock's answer, and rows that are text's alone or a reason in words.
    def attended(self, messages, alone=True, **more):
        body = {"messages": messages, **OPTIONS, **more}
        ours = self.ours.post("/v1/chat/completions", {**body, "attention": ATTENTION, "record": True})
        assert ours.status == 200, ours.body
        answer = ours.json
        told = {name: answer.pop(name, None) for name in ("attention", "reused", "recording", "sequence", "recording_error")}
        if alone:
            assert_same(answer, self.stock.post("/v1/chat/completions", body).json, f"attention: {str(messages)[:60]}", self.without)
        n = answer["usage"]["completion_tokens"]
        if isinstance(told["attention"], dict):  # why there is none, once
            assert len(told["attention"]["error"]) > 40 and told["recording_error"], told
            self.refused.append(told["attention"]["error"])
            return False
        assert len(told["attention"]) == n, (n, told)
        for row in told["attention"]:
            assert row["verdict"] == "ok", row["verdict"]
            assert row["shape"][-1] == row["context_length"] == row["index"] + 1, row
            values = numpy.frombuffer(base64.b64decode(row["data"]), "<f4").reshape(row["shape"])
            assert abs(values.sum(-1) - 1).max() < 1e-3, values.sum(-1)
            self.rows.append((told["recording"], told["sequence"], row["index"], values))
            if alone:
                self.texts.append((messages, more, row["index"], values))
        return True

    # ... which has rows, because what it goes on from is known.
    def has_rows(self, messages, **more):
        assert self.attended(messages, **more), self.refused

    # Every row again: from the recording bit for bit, and from a server that knows no pictures.
    def check_rows(self):
        for path in self.ours.recordings():
            done = subprocess.run([self.program, "verify", "--all", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            assert done.returncode == 0, done.stdout
        lines = {line: self.ours.rows(*line) for line in {row[:2] for row in self.rows}}
        for recording, sequence, index, values in self.rows:
            recorded = lines[recording, sequence][index]
            assert recorded.shape == values.shape and (recorded == values).all(), (recording, sequence, index)
        with Serve(self.program, self.model, os.path.join(self.folder, "alone"), *COMMON, *self.more) as alone:
            known = {}
            for messages, more, index, values in self.texts:
                key = str((messages, more))
                if key not in known:
                    body = {"messages": messages, **OPTIONS, **more, "attention": ATTENTION, "cache_prompt": False}
                    known[key] = {r["index"]: r for r in alone.post("/v1/chat/completions", body).json["attention"]}
                row = known[key][index]
                expected = numpy.frombuffer(base64.b64decode(row["data"]), "<f4").reshape(row["shape"])
                # Batches are cut elsewhere, and keys are of half precision.
                assert expected.shape == values.shape and abs(expected - values).max() < 5e-3, abs(expected - values).max()


def answers_are_stocks(t):
    first = t.both(WITH_PICTURE)
    other = t.both([user(BEGIN, picture(2), "say what it is.")])
    assert first[0] and str(first) != str(other), "the model does not see its pictures"
    t.both([user(picture(1), picture(2), "Which is larger?")])
    t.both([*WITH_PICTURE, said("A sea."), user("Are you sure?")])
    t.both([user("No picture at all.")])


# Nothing is generated for what is refused, and nothing is different afterwards.
def attention_is_refused(t):
    t.both(WITH_PICTURE)
    slots = t.ours.get("/slots").json
    url = WITH_PICTURE[0]["content"][1]["image_url"]["url"]
    marker = t.ours.get("/props").json["media_marker"]
    multimodal = {"prompt_string": "See " + marker, "multimodal_data": [url.split(",")[1]]}
    chat = {"messages": WITH_PICTURE, **OPTIONS}
    later = {"messages": [*WITH_PICTURE, said("A sea."), {"role": "user", "content": "Are you sure?"}], **OPTIONS}
    anthropic = {"max_tokens": 8, "messages": [{"role": "user", "content": [{"type": "image", "source": {
        "type": "base64", "media_type": "image/png", "data": url.split(",")[1]}}]}]}
    responses = {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}], "max_output_tokens": 8}
    for path, body in [("/v1/chat/completions", chat), ("/v1/chat/completions", later), ("/chat/completions", chat),
                       ("/completion", {"prompt": multimodal, "n_predict": 8}), ("/completions", {"prompt": [multimodal], "n_predict": 8}),
                       ("/v1/completions", {"prompt": multimodal, "max_tokens": 8}), ("/v1/messages", anthropic),
                       ("/v1/responses", responses)]:
        for more in ({"attention": ATTENTION}, {"attention": {}, "stream": True}):
            answer = t.ours.post(path, {**body, **more})
            assert answer.status in (400, 501), (path, answer.status, answer.body[:300])
            assert "attention" in answer.error and len(answer.error) > 30, (path, answer.error)
    for path in ("/v1/chat/completions", "/completion"):
        body = chat if "chat" in path else {"prompt": multimodal, "n_predict": 8}
        for more in ({"output_attentions": True}, {"record": True}):
            answer = t.ours.post(path, {**body, **more})
            assert answer.status in (400, 501) and "attention" in answer.error, (path, more, answer.status, answer.body[:300])
    assert t.ours.get("/slots").json == slots, "something was generated"
    client = openai.OpenAI(base_url=t.ours.base + "/v1", api_key="none", max_retries=0)
    try:
        client.chat.completions.create(model="any", messages=WITH_PICTURE, extra_body={"attention": ATTENTION}, **OPTIONS)
        raise AssertionError("a picture with attention was taken")
    except openai.BadRequestError as e:
        assert REFUSAL in str(e), e
    t.both(WITH_PICTURE)


# What follows has a beginning in common with what is in the slot, up to the picture or beyond it.
def text_after_pictures(t):
    assert t.attended(WITHOUT), t.refused
    t.both(WITH_PICTURE)
    t.has_rows(WITHOUT)
    t.has_rows([*WITHOUT, said("It is deep."), {"role": "user", "content": "How deep?"}])
    t.both([*WITHOUT, said("It is deep."), user(picture(3), "Here?")])
    t.has_rows([*WITHOUT, said("It is deep."), {"role": "user", "content": "And how deep?"}])
    t.both([user(picture(1), picture(2), "Which is larger?")])
    t.has_rows(OTHER)
    t.has_rows([user(BEGIN, "say", " nothing.")])  # parts, but all of them text


# Conversations take turns: llama-server keeps what left its slots in memory, and brings it back.
def turns(t):
    for turn in range(2):
        t.both([user(f"{turn}", picture(turn), "?")])
        t.attended([*WITHOUT, said("It is deep."), {"role": "user", "content": f"Is it? {turn}"}])
        t.both([*WITH_PICTURE, said("A sea."), user(f"Sure? {turn}")])
        t.attended(OTHER, max_tokens=4 + turn)
        t.both([*WITHOUT, said("It is deep."), user(picture(3), f"Here {turn}?")])
    t.has_rows(OTHER)


# Pictures in some slots while others read and write text. What is generated beside others is rounded otherwise: no stock, then.
def together(t):
    failures = []

    def pictures(number):
        for turn in range(4):
            content = [user(f"{number} {turn}", picture(turn), "?"), said("A sea."), user("Sure?", picture(number))]
            answer = t.ours.post("/v1/chat/completions", {"messages": content, **OPTIONS})
            # llama-server itself, where some requests name their slot and others have pictures: 2 of 320 without us.
            if answer.status != 200 and "Chunk not found" not in answer.error:
                failures.append(answer.body)

    threads = [threading.Thread(target=pictures, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(8):
        t.attended([{"role": "user", "content": f"{BEGIN} tell me of {turn}."}], alone=False, max_tokens=24)
    for thread in threads:
        thread.join()
    assert not failures, failures
    t.has_rows(OTHER)


KINDS = {"mlp": ["--layers", "3"], "gemma3": ["--arch", "gemma3", "--layers", "4"], "qwen2vl_merger": ["--arch", "qwen2", "--layers", "3"]}


def made(program, kind, folder):
    model, projector = os.path.join(folder, "m.gguf"), os.path.join(folder, "mm.gguf")
    subprocess.run([program, "models", "make", *KINDS[kind], "-o", model], check=True, stdout=subprocess.DEVNULL)
    if kind == "qwen2vl_merger":
        plain_positions, model = model, os.path.join(folder, "vl.gguf")
        made_projector.as_qwen2vl(plain_positions, model)
    made_projector.make(projector, kind, 128)
    return model, projector


SLOTS = {"one slot": ["-np", "1"], "three slots": ["-np", "3"], "three slots, one cache": ["-np", "3", "--kv-unified"]}


def run(program, kind, slots, trial):
    with tempfile.TemporaryDirectory() as folder:
        t = Trial(program, kind, folder, SLOTS[slots])
        try:
            trial(t)
        finally:
            t.end()
        t.check_rows()
    return f"{len(t.rows)} rows" + "".join(f"\n    {t.refused.count(why)} x {why}" for why in sorted(set(t.refused)))


TRIALS = (answers_are_stocks, attention_is_refused, text_after_pictures, turns, together)


def main():
    failed = 0
    for kind, slots, trial in itertools.product(KINDS, SLOTS, TRIALS):
        name = f"{kind}, {slots}: {trial.__name__.replace('_', ' ')}"
        if (trial == together and slots == "one slot") or not all(word in name for word in sys.argv[2:]):
            continue
        try:
            print(f"{name}: as it should, {run(sys.argv[1], kind, slots, trial)}", flush=True)
        except NoEngineServer as e:
            print(f"skipped: {e}")
            return 0
        except Exception:
            failed += 1
            print(f"{name}: FAILED\n{traceback.format_exc()}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
