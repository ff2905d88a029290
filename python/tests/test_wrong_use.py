"""What somebody types wrongly in a notebook: always one of our exceptions, with a sentence, and everything works afterwards."""

import os

import numpy as np
import pytest
from conftest import command

import attnscope as at

HUGE = 2**70


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("wrong") / "tiny.gguf"
    command("models", "make", "-o", path)
    return str(path)


@pytest.fixture(scope="module")
def small(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("wrong") / "small.attn"
    return at.capture(model, "some text", path=path, n_predict=8, temperature=0, ignore_eos=True, progress=False)


def names(**more):
    return {"at": at, "np": np, "HUGE": HUGE, **more}


def refused(expression, scope):
    with pytest.raises(at.Error) as e:
        eval(expression, scope)
    said = str(e.value)
    assert e.value.kind and len(said) > 10
    assert "incompatible function arguments" not in said and "bad_cast" not in said


@pytest.mark.parametrize("expression", """
run[HUGE] | run[-HUGE] | run[[HUGE]] | run['a'] | run[1.0] | run[{}] | run[0:5:0] | run['a':] | run[..., ...] | run[0, 1, 2, 3, 4, 5]
run[0, 0, 0, HUGE] | run[[0, 1], [0, 1, 2]] | run[[[1], [1, 2]]] | run[np.zeros(3, bool)]
run.pattern(HUGE) | run.pattern('3') | run.pattern(None) | run.pattern(1.5) | run.pattern([0, 1]) | run.pattern(0, token='a')
run.pattern(0, token=HUGE) | run.pattern(0, head='a') | run.pattern(0, head=[1.5]) | run.pattern(0, head=[True])
run.answer('x') | run.answer(1.5) | run.answer([1, 2]) | run.answer(0, reduce=3) | run.answer(0, reduce='median') | run.answer(0, layers='a')
run.answer(0, layers=[1.5]) | run.answer(0, heads=[HUGE]) | run.answer(0, spans=3) | run.answer(0, spans=[3])
run.answer(0, reduce='spans', spans=[(1, 2, 3)]) | run.answer(0, spans=[('a', 'b')]) | run.answer(0, reduce='spans', spans=[(-5, HUGE)])
run.answer(0, reduce='top_k', top_k=HUGE) | run.answer(0, reduce='top_k', top_k=2**40) | run.answer(0, reduce='top_k', top_k='3')
run.answer(0, window=1.5) | run.answer(every=HUGE) | run.answer(every=0) | run.answer(accumulate=3) | run.answer(accumulate=[3])
run.answer(accumulate='most') | run.answer(window_rows=0, accumulate='window_mean')
run.map(tile=0) | run.map(tile='a') | run.map(tile=HUGE) | run.map(tile=(1,)) | run.map(tile=1.5) | run.map(5) | run.map('a') | run.map(slice(5, 2))
run.map(slice(0, 8, 2)) | run.map(layers=99)
run.prune('h2o', 'a') | run.prune('h2o', -1) | run.prune('h2o', HUGE) | run.prune('h2o', 3.5) | run.prune('xx', 3) | run.prune(3, 3)
run.prune('h2o', 3, chunks=3) | run.prune('h2o', 3, chunks=[(0, 1)]) | run.prune('h2o', 3, pinned=[99]) | run.prune('h2o', 3, pinned='a')
run.prune('snapkv', 3, pool=0) | run.prune('h2o', 3, recent=-1)
run.find('') | run.find(3) | run.find('zzz') | run.find('s', start=10**6) | run.find('s', start='a') | run.find('\\ud800')
run.queries(99) | run.queries(0, 99) | run.queries(0, [99]) | run.queries(0, 'a') | run.queries('a') | run.keys(99) | run.keys(None)
run.witnesses(99) | run.witnesses('a') | run.verify(proofs='a') | run.verify(proofs=-5) | run.verify(proofs=HUGE) | run.verify(progress=3)
run.to_transformers(99) | run.to_transformers('a') | run.to_circuitsvis(99) | run.to_circuitsvis('a') | run.save(3) | run.save('/proc/x.attn')
run.save(run.path) | run.save(run.path, overwrite=True)
at.open(None) | at.open(['h.attn']) | at.open(run) | at.open('') | at.open('x' * 5000) | at.open('/dev/zero') | at.open('a\\0b')
at.set_threads(0) | at.set_threads(10**9) | at.set_threads('a') | at.find_model('nope') | at.find_model(3) | at.find_model('/etc')
at.connect(3) | at.connect('') | at.connect('http://[::1') | at.connect('http://127.0.0.1:99999').model()
at.diagnose(None) | at.diagnose('') | at.diagnose(run.path, shape='a') | at.diagnose(run.path, shape=(3,)) | at.diagnose([1, 2]) | at.diagnose(['a'])
at.diagnose(np.zeros((2, 2, 2, 2), complex)) | at.diagnose(np.array(3.0)) | at.diagnose(iter([])) | at.diagnose({}) | at.diagnose('/dev/zero')
""".replace("\n", " | ").strip(" |").split(" | "))  # fmt: skip
def test_of_a_recording(small, expression):
    refused(expression, names(run=small))


@pytest.mark.parametrize("expression", """
at.Session(3) | at.Session('/etc') | at.Session(model, n_ctx='a') | at.Session(model, n_ctx=-5) | at.Session(model, n_ctx=HUGE)
at.Session(model, n_ctx=2**40) | at.Session(model, cache_type_k='x') | at.Session(model, cache_type_k=3) | at.Session(model, devices=3)
at.Session(model, devices=['nope']) | at.Session(model, temperature=1) | at.Session(model, entry='zzz') | at.Session(model, flash_attention=True)
at.capture(model, None) | at.capture(model, 3) | at.capture(model, []) | at.capture(model, [1.5]) | at.capture(model, ['a']) | at.capture(model, [HUGE])
at.capture(model, [-1]) | at.capture(model, [2**31 - 1]) | at.capture(model, 'a', n_predict='x') | at.capture(model, 'a', n_predict=-5)
at.capture(model, 'a', n_predict=HUGE) | at.capture(model, 'a', temperature='hot') | at.capture(model, 'a', temperature=float('nan'))
at.capture(model, 'a', seed=-1) | at.capture(model, 'a', seed=HUGE) | at.capture(model, 'a', path='/nope/x.attn') | at.capture(model, 'a', path=3)
at.capture(model, 'a', prompt_rows='some') | at.capture(model, 'a', prompt_rows=-1) | at.capture(model, 'a', prompt_rows=1.5)
at.capture(model, [{'role': 'user'}]) | at.capture(model, [{'role': 'user', 'content': 3}]) | at.capture(model, [{'role': 3, 'content': 'x'}])
at.capture(model, '\\ud800') | at.capture(model, 'a', logit_bias=3) | at.capture(model, 'a', logit_bias={'a': 1}) | at.capture(model, 'a', n_ctxx=3)
s.generate('a', n_ctx=3) | s.generate('a', on_text=3) | s.generate(3) | s.tokenize(3) | s.truncate(-1) | s.truncate('a') | s.chat_prompt(3) | s.chat_prompt([3])
frame.answer({'layers': 'a'}) | frame.answer({3: 4}) | frame.answer({'spans': [[1]]}) | frame.answer({'layers': [99]})
""".replace("\n", " | ").strip(" |").split(" | "))  # fmt: skip
def test_of_a_session(model, running, expression):
    session, frame = running
    refused(expression, names(model=model, s=session, frame=frame))
    assert len(list(session.generate("b", n_predict=1, ignore_eos=True))) == 1


@pytest.fixture(scope="module")
def running(model):
    with at.Session(model, n_ctx=4096) as s:
        yield s, list(s.generate("a", n_predict=1, ignore_eos=True))[-1]


def test_after_all_that_it_still_works(small):
    assert np.array_equal(small[:][-1], small[-1])


def test_a_closed_recording_and_a_closed_session(small, model):
    run = at.open(small.path)
    run.close()
    run.close()
    for expression in ("run[0]", "run[:]", "run.tokens", "run.text", "run.pattern(0)", "run.answer(0)", "run.verify()", "run.keys(0)", "run.map()"):
        with pytest.raises(at.InvalidArgument, match="was closed"):
            eval(expression)
    s = at.Session(model, n_ctx=256)
    frame = list(s.generate("a", n_predict=2, ignore_eos=True))[-1]
    unread = s.generate("a", n_predict=-1, ignore_eos=True)
    next(unread)
    s.close()
    s.close()
    with pytest.raises(at.Cancelled, match="close\\(\\) ended it"):
        list(unread)
    assert frame.verdict == "ok" and frame.answer({})["values"].shape[-1] == frame.index + 1
    for expression in ("s.generate('a')", "s.tokenize('a')", "s.reset()", "s.truncate(1)", "s.layers", "s.model", "s.n_ctx", "s.n_past", "s.chat_prompt('a')"):
        with pytest.raises(at.InvalidArgument, match="was closed"):
            eval(expression)


def test_two_sessions_in_turns(model):
    with at.Session(model, n_ctx=256) as a, at.Session(model, n_ctx=256) as b:
        ours = a.generate("a", n_predict=6, ignore_eos=True, temperature=0)
        theirs = b.generate("a", n_predict=6, ignore_eos=True, temperature=0)
        for x, y in zip(ours, theirs, strict=True):
            assert x.token == y.token and np.array_equal(x.answer({})["values"], y.answer({})["values"])


def test_no_folder_is_left_behind_by_what_fails(model, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(at.Error):
        at.capture(model, [2**31 - 1])
    with pytest.raises(at.Error):
        at.capture(model, "a" * 5000, n_ctx=256)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("shape", [(2, 0, 0, 0), (2, 3, 0, 5), (2, 3, 2, 0), (0, 3, 2, 4)])
def test_an_empty_array_is_no_capture(shape):
    with pytest.raises(at.Error, match="empty|no tokens|0 tokens"):
        at.diagnose(np.zeros(shape, np.float32))


@pytest.mark.parametrize("name", [b"\xff.attn", "\ud800.attn"])
def test_a_name_that_is_no_utf_8(name, run, tmp_path):
    for call in (at.open, at.find_model, at.diagnose, run.save):
        with pytest.raises(at.InvalidArgument, match="UTF-8"):
            call(name)


class Three:
    def __index__(self):
        return 3


def test_what_says_that_it_is_a_number_is_one(run):
    assert np.array_equal(run.pattern(1, token=Three(), head=Three()), run.pattern(1, token=3, head=3))
    with pytest.raises(at.OutOfRange, match="integers"):
        run[np.array([1], "m8[s]")]


def test_threads_and_sizes_that_no_machine_has():
    for options in ({"n_threads": 10**6}, {"n_threads": -3}, {"n_ctx": -1}, {"n_ctx": 2**40}, {"n_batch": 0}):
        with pytest.raises(at.InvalidArgument, match="must be from"):
            at.Session("smollm2", **options)
