"""Sessions in this process: the same frames and rows as the command records."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import PROMPT, QUESTION, command, known_model

import attnscope as at


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    command("models", "make", "-o", path)
    return str(path)


def test_a_captured_run_is_what_the_command_captures(full, run):
    known_model("smollm2")
    again = at.capture("smollm2", [int(t) for t in run.tokens[: run.n_prompt]], temperature=0, n_predict=6, ignore_eos=True, progress=False)
    assert np.array_equal(again.tokens, run.tokens)
    assert again.text == run.text
    assert np.array_equal(again[:], full)
    assert again.verify().good
    assert again.info["entry"] == "interposed"


def test_a_chat_is_what_the_model_s_own_template_makes_of_it():
    known_model("smollm2")
    chat = at.capture("smollm2", QUESTION, chat=True, temperature=0, n_predict=1, progress=False)
    with at.Session("smollm2") as s:
        assert list(chat.tokens[: chat.n_prompt]) == list(s.tokenize(s.chat_prompt(QUESTION), parse_special=True))
        assert s.chat_prompt(QUESTION).startswith("<|im_start|>system\n") and QUESTION in s.chat_prompt(QUESTION)


def test_control_tokens_in_a_text_are_what_the_command_reads(smollm2, run):
    known_model("smollm2")
    text = "<|im_start|>user\nHi<|im_end|>"
    with at.Session("smollm2") as s:
        marked = s.tokenize(text)
        plain = s.tokenize(text, parse_special=False)
        assert marked[0] == s.tokenize("<|im_start|>")[0] and len(s.tokenize("<|im_start|>")) == 1
        assert len(plain) > len(marked)
        assert list(s.tokenize(PROMPT)) == run.tokens[: run.n_prompt].tolist()
    read = at.capture("smollm2", text, n_predict=1, temperature=0, progress=False)
    assert read.tokens[: read.n_prompt].tolist() == marked
    as_text = at.capture("smollm2", text, parse_special=False, n_predict=1, temperature=0, progress=False)
    assert as_text.tokens[: as_text.n_prompt].tolist() == plain


def test_an_encoder_s_rows_look_both_ways(made_model):
    model = made_model("bert", "--arch", "bert")
    run = at.capture(model, "some text to embed", n_predict=0, progress=False)
    assert len(run) > 2 and run.verify().good
    row = run[0, 0, 0]
    assert row.shape == (len(run),) and row.sum() == pytest.approx(1, abs=1e-5) and (row[1:] > 0).all()


def test_a_temporary_recording_lives_as_long_as_its_run(tiny, tmp_path):
    run = at.capture(tiny, "some text", n_predict=4, ignore_eos=True, progress=False)
    path = run.path
    assert os.path.exists(path) and run.n_tokens == run.n_prompt + 4
    kept = run.save(tmp_path / "kept.attn")
    assert np.array_equal(kept[-1], run[-1])
    with pytest.raises(at.InvalidArgument, match="exists"):
        run.save(tmp_path / "kept.attn")
    del run
    assert not os.path.exists(path)


def test_frames_as_they_come(tiny, tmp_path):
    path = tmp_path / "same.attn"
    run = at.capture(tiny, "some text", path=path, n_predict=6, temperature=0, ignore_eos=True, progress=False)
    with pytest.raises(at.InvalidArgument, match="exists"):
        at.capture(tiny, "some text", path=path, n_predict=6, progress=False)
    texts = []
    with at.Session(tiny) as s:
        generation = s.generate("some text", n_predict=6, temperature=0, ignore_eos=True, prompt_frames=True, on_text=texts.append)
        frames = list(generation)
        assert generation.result["finish_reason"] == "length"
        assert [f.token for f in frames] == run.tokens.tolist()
        assert [f.kind for f in frames] == run.kind.tolist()
        assert len(texts) == 6
        for f in frames:
            assert f.verdict == "ok"
            assert np.array_equal(f.answer().values, run[f.index]) and np.array_equal(f.answer({})["values"], run[f.index])
            mean = f.answer(reduce="mean").values
            assert np.array_equal(f.answer({"reduce": "mean"}), mean) and np.array_equal(run.answer(f.index, reduce="mean"), mean)
            assert np.allclose(mean, run[f.index].mean((0, 1)), atol=1e-6)
        assert s.n_past == len(frames)
        # The next generation goes on after the first.
        more = list(s.generate(" and", n_predict=2, temperature=0, ignore_eos=True))
        assert more[0].index > frames[-1].index
        assert more[-1].answer({})["values"].shape[-1] == more[-1].index + 1
        before = more[-1].answer({})["values"]
        # Frames outlive what the context forgets, but not the keys that were cut away from under them.
        kept = len(frames) - 2
        assert s.truncate(kept) == kept
        assert np.array_equal(frames[2].answer({})["values"], run[2])
        with pytest.raises(at.NotFound, match="was cut"):
            more[-1].answer({})
        again = list(s.generate(" and", n_predict=2, temperature=0, ignore_eos=True))
        rows = again[-1].answer({})["values"]
        s.reset()
        list(s.generate("another", n_predict=1, temperature=0, ignore_eos=True))
        assert np.array_equal(again[-1].answer({})["values"], rows)
        assert before.shape != rows.shape


def test_leaving_the_loop_ends_the_generation(tiny):
    with at.Session(tiny) as s:
        for frame in s.generate("a", n_predict=-1, ignore_eos=True):
            if frame.index > 20:
                break
        begin = time.monotonic()
        assert len(list(s.generate("b", n_predict=2, ignore_eos=True))) == 2
        assert time.monotonic() - begin < 30
        s.generate("c", n_predict=-1, ignore_eos=True)  # never read


def test_an_exception_in_a_callback_comes_out(tiny):
    def bad(_):
        raise RuntimeError("not today")

    with at.Session(tiny) as s:
        with pytest.raises(RuntimeError, match="not today"):
            list(s.generate("a", n_predict=5, ignore_eos=True, on_text=bad))
        assert len(list(s.generate("a", n_predict=2, ignore_eos=True))) == 2


def test_one_generation_at_a_time(tiny):
    with at.Session(tiny) as s:
        first = s.generate("a", n_predict=-1, ignore_eos=True)
        next(first)
        second = s.generate("a", n_predict=1, ignore_eos=True)  # ends the first
        assert len(list(second)) == 1
        for _ in range(2):
            with pytest.raises(at.Cancelled, match=r"is not finished: generate\(\) ended it"):
                next(first)
    with pytest.raises(at.InvalidArgument, match="was closed"):
        s.generate("a")


def test_a_generation_that_had_ended_is_read_to_its_end(tiny):
    with at.Session(tiny) as s:
        first = s.generate("a", n_predict=5, ignore_eos=True)
        next(first)
        first._engine.thread.join(20)
        assert len(list(s.generate("b", n_predict=1, ignore_eos=True))) == 1
        assert len(list(first)) == 4 and first.result["finish_reason"] == "length"


def test_threads_that_share_a_session(tiny):
    """Each gets its whole text, or is told that another took its place."""
    said = []
    with at.Session(tiny, n_ctx=8192) as s:

        def generate():
            for _ in range(4):
                try:
                    said.append(len(list(s.generate("a", n_predict=6, ignore_eos=True))))
                except at.Cancelled:
                    said.append("cancelled")
                except BaseException as e:
                    said.append(repr(e))

        threads = [threading.Thread(target=generate) for _ in range(3)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(60)
        assert len(said) == 12 and set(said) <= {6, "cancelled"} and 6 in said


def test_options_that_mean_nothing(tiny):
    with at.Session(tiny) as s:
        for wrong in ({"temperature": -3}, {"top_p": 7}, {"min_p": -0.1}, {"repeat_penalty": 0}, {"mirostat": 3}, {"temperature": np.float32(-1)}):
            with pytest.raises(at.InvalidArgument, match=f"{next(iter(wrong))} must be from"):
                s.generate("a", **wrong)
        for wrong, meant in (("temp", "temperature"), ("max_tokens", "n_predict"), ("n_predicts", "n_predict")):
            with pytest.raises(at.InvalidArgument, match=f"no option {wrong}. Did you mean {meant}"):
                s.generate("a", **{wrong: 1})
    for flag, value in (("--temp", "-3"), ("--top-p", "7")):
        assert command("capture", "-m", tiny, "-p", "a", flag, value, check=False).returncode != 0
    with pytest.warns(UserWarning, match="n_ctx=16 became 256"), at.Session(tiny, n_ctx=16) as s:
        assert s.n_ctx == 256


def test_a_path_is_refused_before_the_model_is_loaded(tmp_path):
    (tmp_path / "there.attn").write_bytes(b"x")
    for path, error in ((tmp_path / "there.attn", at.InvalidArgument), (tmp_path / "no" / "x.attn", at.NotFound), (tmp_path, at.InvalidArgument)):
        with pytest.raises(error, match="exists|no folder|is a folder"):
            at.capture(tmp_path / "no model.gguf", "a", path=path)
    assert (tmp_path / "there.attn").read_bytes() == b"x"


def test_sentences_speak_python(tiny, made_model):
    with at.Session(tiny, n_ctx=256) as s, pytest.raises(at.InvalidArgument, match="a larger n_ctx"):
        list(s.generate("some text " * 200))
    with pytest.raises(at.Error, match="n_predict=0") as e:
        at.capture(made_model("bert", "--arch", "bert"), "some text", n_predict=3, progress=False)
    assert "-n 0" not in str(e.value)


def test_what_makes_no_sense(tiny, tmp_path):
    with pytest.raises(at.NotFound):
        at.Session(tmp_path / "nothing.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(at.Error):
        at.Session(tmp_path / "bad.gguf")
    with pytest.raises(at.InvalidArgument, match="there is no option n_predicts"):
        at.capture(tiny, "a", n_predicts=3)
    with pytest.raises(at.InvalidArgument, match="flash_attention"):
        at.Session(tiny, flash_attention="maybe")
    with at.Session(tiny, n_ctx=64) as s:
        with pytest.raises(at.InvalidArgument, match="empty"):
            s.generate([])
        with pytest.raises(at.Error):
            list(s.generate([10**8]))
        with pytest.raises(at.Error):
            list(s.generate("a" * 500))
        frame = list(s.generate("a", n_predict=1, ignore_eos=True))[-1]
        with pytest.raises(at.InvalidArgument, match="no field 'reducer'"):
            frame.answer({"reducer": "mean"})
        with pytest.raises(at.InvalidArgument):
            frame.answer({"reduce": "median"})
        with pytest.raises(at.InvalidArgument):
            frame.answer({"layers": [99]})


INTERRUPTED = """
import attnscope as at, os, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell is started without
capture = at.capture  # the engine is loaded now
threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    capture(sys.argv[1], "a", path=sys.argv[2], n_predict=-1, n_ctx=200000, ignore_eos=True, progress=False)
except KeyboardInterrupt:
    run = at.open(sys.argv[2])
    print("interrupted", run.n_tokens > 3, run.complete, run.end_reason, run.info["end_reason"], ", interrupted;" in repr(run), run.verify().good)
"""

FORGOTTEN = """
import attnscope as at, sys
frames = at.Session(sys.argv[1]).generate("a", n_predict=-1, ignore_eos=True)
next(frames)
"""


def test_control_c_in_mid_capture(tiny, tmp_path):
    out = subprocess.run([sys.executable, "-c", INTERRUPTED, tiny, tmp_path / "x.attn"], capture_output=True, text=True, timeout=60)
    assert out.stdout == "interrupted True True interrupted interrupted True True\n", out.stderr
    assert ".attn, interrupted (the file is whole" in command("info", tmp_path / "x.attn").stdout


def test_control_c_while_a_prompt_is_read(tiny, tmp_path):
    """The first part of a prompt is a whole recording, too, and says that it is a part."""

    class Stop(KeyboardInterrupt):
        pass

    def interrupt(_):
        raise Stop

    with at.Session(tiny, n_ctx=16384, n_batch=32) as s:
        tokens = s.tokenize("some text " * 1000)
        with pytest.raises(Stop):
            s._core.record(tokens, str(tmp_path / "p.attn"), False, {"n_predict": 0}, None, interrupt)
    run = at.open(tmp_path / "p.attn")
    assert 0 < run.n_tokens < len(tokens) and run.complete and run.end_reason == "interrupted" and run.verify()
    whole = at.capture(tiny, "some text", n_predict=2, ignore_eos=True, progress=False)
    assert whole.end_reason == whole.info["end_reason"] == "" and whole.info["complete"]


def test_a_program_that_ends_while_it_generates(tiny):

    out = subprocess.run([sys.executable, "-c", FORGOTTEN, tiny], capture_output=True, text=True, timeout=60)
    assert out.returncode == 0, out.stderr


def test_the_gil_is_free_while_a_model_computes(tiny):
    ticks = []
    done = threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    at.capture(tiny, "some text " * 100, n_predict=50, ignore_eos=True, progress=False)
    done.set()
    thread.join()
    assert np.diff(ticks).max() < 1.0


def ended(session, seconds=20):
    """Waits until the session generates no more."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        before = session.n_past
        time.sleep(0.3)
        if session.n_past == before:
            return True
    return False


def test_leaving_the_loop_ends_the_generation(tiny):
    with at.Session(tiny, n_ctx=4096) as s:
        for _ in s.generate("hello", n_predict=-1, ignore_eos=True):
            break
        assert ended(s) and s.n_past < 1000
        s.reset()
        assert s.n_past == 0


def test_nothing_is_left_of_a_session_that_nobody_holds(tiny):
    s = at.Session(tiny, n_ctx=4096)
    frames = s.generate("hello", n_predict=-1, ignore_eos=True)
    next(frames)
    thread = frames._engine.thread
    del s, frames
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.parametrize("way", ["session", "generation", "another"])
def test_a_reader_is_told_when_another_thread_closes(tiny, way):
    s = at.Session(tiny, n_ctx=4096)
    frames = s.generate("hello", n_predict=-1, ignore_eos=True)
    told = []

    def read():
        try:
            told.append(len(list(frames)))
        except at.Cancelled as e:
            told.append(str(e))

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.3)
    if way == "session":
        s.close()
    elif way == "generation":
        frames.close()
    else:
        assert len(list(s.generate("b", n_predict=2, ignore_eos=True))) == 2
    reader.join(20)
    assert not reader.is_alive()
    if way == "generation":
        assert told[0] > 0
    else:
        assert f"{'close' if way == 'session' else 'generate'}() ended it" in told[0]
    s.close()


@pytest.mark.parametrize("call", ["s.generate('b')", "s.close()"])
def test_a_callback_cannot_use_the_session_that_calls_it(tiny, call):
    with at.Session(tiny) as s:
        with pytest.raises(at.InvalidArgument, match="in a callback"):
            list(s.generate("a", n_predict=3, ignore_eos=True, on_text=lambda _: eval(call, {"s": s})))
        assert len(list(s.generate("a", n_predict=3, ignore_eos=True))) == 3
