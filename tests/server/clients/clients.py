"""Client libraries as they come from PyPI and npm, unmodified, against `attnscope serve`.

  clients.py ATTNSCOPE [NODE]       run.sh makes the environment (requirements.txt, package-lock.json) and calls it; NODE: those of npm, too

Each client does what its users do: list models, chat at once and as a stream, ask for JSON of a schema, for probabilities, for several
answers, and for what this server refuses. One line each; the exit code is the number of clients that failed."""
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request

QUESTION = "What is the capital of France?"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome", "Berlin"]}, "sure": {"type": "boolean"}},
          "required": ["city", "sure"], "additionalProperties": False}


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer), answer.headers


def openai_python(base):
    import openai, pydantic, typing

    class City(pydantic.BaseModel):
        city: typing.Literal["Paris", "Rome", "Berlin"]
        sure: bool

    client = openai.OpenAI(base_url=base + "/v1", api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    whole = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=24, temperature=0)
    assert "Paris" in whole.choices[0].message.content, whole
    stream = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=24, temperature=0, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in stream) == whole.choices[0].message.content
    parsed = client.chat.completions.parse(model=model, messages=MESSAGES, max_tokens=200, response_format=City)
    assert isinstance(parsed.choices[0].message.parsed, City), parsed
    told = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=4, logprobs=True, top_logprobs=3, n=2, temperature=1)
    assert len(told.choices) == 2 and all(len(c.logprobs.content) == 4 for c in told.choices), told
    assert all(len(t.top_logprobs) == 3 and t.logprob <= 0 for c in told.choices for t in c.logprobs.content)
    legacy = client.completions.create(model=model, prompt="Once", max_tokens=3, logprobs=2, temperature=0, logit_bias={"30": -100})
    assert len(legacy.choices[0].logprobs.content) == 3, legacy  # in the words of a chat, as llama-server has them
    two = client.completions.create(model=model, prompt=["Once", "The sea"], max_tokens=3, temperature=0)
    assert len(two.choices) == 2, two
    tool = {"type": "function", "function": {"name": "capital_of", "parameters": {
        "type": "object", "properties": {"country": {"enum": ["France", "Peru"]}}, "required": ["country"]}}}
    plain, attended = [client.chat.completions.create(model=model, messages=MESSAGES, tools=[tool], max_tokens=24, temperature=0,
                                                      extra_body=more) for more in ({}, {"attention": {"reduce": "mean"}})]
    assert attended.choices[0].message == plain.choices[0].message, (plain, attended)
    rows = attended.model_extra["attention"]
    assert len(rows) == plain.usage.completion_tokens and all(row["verdict"] == "ok" for row in rows), rows
    try:
        client.chat.completions.create(model=model, messages=MESSAGES, extra_body={"attention": {"reduce": "nonsense"}})
        raise AssertionError("a reduction that is none was taken")
    except openai.BadRequestError as e:
        assert "reduce" in str(e)


def litellm(base):
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks GitHub for prices
    import litellm as lib
    to = {"model": "openai/local", "api_base": base + "/v1", "api_key": "none", "messages": MESSAGES, "max_tokens": 24, "temperature": 0}
    whole = lib.completion(**to)
    assert "Paris" in whole.choices[0].message.content, whole
    streamed = "".join(c.choices[0].delta.content or "" for c in lib.completion(stream=True, **to))
    assert streamed == whole.choices[0].message.content, streamed
    form = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": SCHEMA}}
    assert json.loads(lib.completion(response_format=form, **dict(to, max_tokens=200)).choices[0].message.content)["city"]
    told = lib.completion(logprobs=True, top_logprobs=2, **to)
    assert told.choices[0].logprobs.content[0].logprob <= 0, told
    legacy = lib.text_completion(model="text-completion-openai/local", prompt="Once", api_base=base + "/v1", api_key="none", max_tokens=3)
    assert legacy.choices[0].text, legacy


def langchain(base):
    import openai
    from langchain_openai import ChatOpenAI
    chat = ChatOpenAI(base_url=base + "/v1", api_key="none", model="local", temperature=0, max_tokens=40)
    whole = chat.invoke(QUESTION)
    assert whole.content and whole.response_metadata["finish_reason"] in ("stop", "length"), whole
    assert "".join(c.content for c in chat.stream(QUESTION)) == whole.content
    schema = dict(SCHEMA, title="City", description="a city")
    longer = ChatOpenAI(base_url=base + "/v1", api_key="none", model="local", temperature=0, max_tokens=200)
    answer = longer.with_structured_output(schema, method="json_schema").invoke("A city as a JSON object, please.")
    assert set(answer) == {"city", "sure"}, answer
    try:
        answer = longer.with_structured_output(schema, method="json_mode", include_raw=True).invoke("A city as a JSON object, please.")
        text = answer["raw"].content
    except openai.LengthFinishReasonError as e:  # of any form, and perhaps longer than this: then the client says so
        text = e.completion.choices[0].message.content
    assert text.startswith("{"), text
    told = chat.bind(logprobs=True).invoke(QUESTION)
    assert told.response_metadata["logprobs"]["content"], told


def llama_index(base):
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike
    to = dict(api_base=base + "/v1", api_key="none", model="local", temperature=0, max_tokens=24, context_window=1024)
    chat = OpenAILike(is_chat_model=True, **to)
    whole = chat.chat([ChatMessage(role=m["role"], content=m["content"]) for m in MESSAGES])
    assert "Paris" in whole.message.content, whole
    assert "".join(c.delta or "" for c in chat.stream_complete(QUESTION)) == chat.complete(QUESTION).text
    assert OpenAILike(is_chat_model=False, **to).complete("The capital of France is").text


def llm_command(base):
    with tempfile.TemporaryDirectory() as home:
        with open(os.path.join(home, "extra-openai-models.yaml"), "w") as f:
            f.write(f"- model_id: local\n  model_name: local\n  api_base: {base}/v1\n  supports_schema: true\n")
        env = dict(os.environ, LLM_USER_PATH=home, OPENAI_API_KEY="none")
        tool = os.path.join(os.path.dirname(sys.executable), "llm")
        ask = lambda *more: subprocess.run([tool, "-m", "local", "-o", "temperature", "0", "-o", "max_tokens", "200", *more, QUESTION],
                                           env=env, stdout=subprocess.PIPE, text=True, check=True, stdin=subprocess.DEVNULL).stdout
        whole = ask("--no-stream")
        assert whole.strip() and ask() == whole, whole
        assert json.loads(ask("--schema", json.dumps(SCHEMA)))["city"]


# What the pages of KoboldAI Lite and SillyTavern send, as far as their fields are known.
LITE = {"n": 1, "max_context_length": 1024, "max_length": 12, "rep_pen": 1.05, "temperature": 0.75, "top_p": 0.92, "top_k": 100, "top_a": 0,
        "typical": 1, "tfs": 1, "rep_pen_range": 360, "rep_pen_slope": 0.7, "sampler_order": [6, 0, 1, 3, 4, 2, 5], "memory": "",
        "trim_stop": True, "genkey": "KCPP7391", "min_p": 0, "dynatemp_range": 0, "dynatemp_exponent": 1, "smoothing_factor": 0,
        "nsigma": 0, "banned_tokens": [], "render_special": False, "logprobs": True, "replace_instruct_placeholders": True,
        "presence_penalty": 0, "logit_bias": {}, "quiet": True, "stop_sequence": ["User:", "\nUser ", "\nKoboldAI: "],
        "use_default_badwordsids": False, "bypass_eos": False, "prompt": "\nUser: Hello\nKoboldAI:"}
TAVERN = {"prompt": "You: Hello\nSeraphina:", "gui_settings": False, "max_length": 12, "max_context_length": 1024, "rep_pen": 1.1,
          "rep_pen_range": 600, "rep_pen_slope": 0, "temperature": 1, "tfs": 1, "top_a": 0, "top_k": 0, "top_p": 1, "min_p": 0.05, "typical": 1,
          "use_world_info": False, "singleline": False, "sampler_order": [6, 0, 1, 3, 4, 2, 5], "mirostat": 0, "mirostat_tau": 5,
          "mirostat_eta": 0.1, "use_default_badwordsids": False, "grammar": "root ::= [a-zA-Z .!]+", "trim_stop": True, "dry_multiplier": 0.8,
          "dry_base": 1.75, "dry_allowed_length": 2, "dry_sequence_breakers": ["\n", ":", "\"", "*"], "xtc_probability": 0, "xtc_threshold": 0.1,
          "stop_sequence": ["\nYou:"], "can_abort": True, "streaming": True, "genkey": "SillyTavern"}


def kobold_pages(base):
    whole, headers = post(base + "/api/v1/generate", LITE)
    assert whole["results"][0]["text"] and whole["results"][0]["logprobs"]["content"], whole
    assert {"sampler_order", "rep_pen_slope"} <= set(headers["X-Ignored-Fields"].split(", ")), headers["X-Ignored-Fields"]
    request = urllib.request.Request(base + "/api/extra/generate/stream", json.dumps(TAVERN).encode())
    with urllib.request.urlopen(request, timeout=120) as answer:
        events = [json.loads(line[6:]) for line in answer.read().decode().splitlines() if line.startswith("data: ")]
    text = "".join(e["token"] for e in events)
    assert text and all(c.isascii() and (c.isalpha() or c in " .!") for c in text), text
    assert events[-1]["finish_reason"] in ("stop", "length"), events[-1]


def main():
    binary = sys.argv[1]
    clients = {"openai (Python)": openai_python, "litellm": litellm, "langchain-openai": langchain, "llama-index": llama_index,
               "llm": llm_command, "KoboldAI Lite's and SillyTavern's calls": kobold_pages}
    server = subprocess.Popen([binary, "serve", "-m", "smollm2", "--port", "0", "-c", "4096"], stdout=subprocess.PIPE, text=True)
    try:
        base = next(word for line in server.stdout for word in line.split() if word.startswith("http://")).rstrip("/.,")
        failed = 0
        for name, use in clients.items():
            begun = time.monotonic()
            try:
                use(base)
                print(f"{name}: as it should ({time.monotonic() - begun:.1f} s)", flush=True)
            except Exception:
                failed += 1
                print(f"{name}: FAILED\n{traceback.format_exc()}", flush=True)
        if len(sys.argv) > 2:
            failed += subprocess.run([sys.argv[2], os.path.join(os.path.dirname(__file__), "clients.mjs"), base]).returncode != 0
        return failed
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
