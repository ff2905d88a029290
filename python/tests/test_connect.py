"""A real server, and the rows it sends."""

import numpy as np
import pytest

import attnscope as at

pytest.importorskip("websockets")
PROMPT = "The capital of France is"


def test_live_rows_are_those_of_a_recording(server):
    run = at.capture("smollm2", PROMPT, n_predict=6, temperature=0, progress=False)
    tokens = list(server.generate(PROMPT, n_predict=6, temperature=0, rep_pen=1, attention={}))
    assert [t.token for t in tokens] == run.tokens[run.n_prompt :].tolist()
    for t in tokens:
        assert t.verdict == "ok"
        assert t.attention.shape == (30, 9, t.index + 1)
        assert np.array_equal(t.attention, run[t.index])
    assert server.last["finish_reason"] == "length"


@pytest.mark.parametrize("format, tolerance", [("f32", 1e-6), ("f16", 1e-3), ("u8", 4e-3)])
def test_formats(server, format, tolerance):
    run = at.capture("smollm2", PROMPT, n_predict=3, temperature=0, progress=False)
    for t in server.generate(PROMPT, n_predict=3, temperature=0, rep_pen=1, attention={"reduce": "per_layer", "format": format}):
        assert t.attention.dtype == np.float32
        assert np.abs(t.attention - run[t.index].mean(1)).max() < tolerance


def test_top_k_says_where(server):
    t = next(iter(server.generate(PROMPT, n_predict=2, temperature=0, attention={"reduce": "top_k", "top_k": 3})))
    assert t.columns.shape == t.attention.shape == (3,)
    assert t.columns[0] == 0 and np.all(np.diff(t.attention) <= 0)


def test_leaving_the_loop_ends_the_generation(server):
    for _ in server.generate(PROMPT, n_predict=400, temperature=0, ban_eos_token=True):
        break
    assert len(list(server.generate(PROMPT, n_predict=2, temperature=0))) == 2


def test_refusals(server):
    assert server.model()["num_layers"] == 30
    with pytest.raises(at.ServerError, match="reduce is not one of") as e:
        list(server.generate(PROMPT, attention={"reduce": "median"}))
    assert e.value.status == 400
    with pytest.raises(at.IOFailed, match="no attnscope server answers"):
        list(at.connect("http://127.0.0.1:9").generate("a"))
    with pytest.raises(at.IOFailed):
        at.connect("127.0.0.1:9").model()
    with pytest.raises(at.InvalidArgument):
        at.connect("ftp://somewhere")


def test_fields_that_a_server_does_not_know(server):
    for wrong, meant in (("temprature", "temperature"), ("max_tokens", "n_predict"), ("topp", "top_p")):
        with pytest.raises(at.InvalidArgument, match=f"knows no {wrong}. Did you mean {meant}"):
            server.generate(PROMPT, **{wrong: 0})
    with pytest.raises(at.InvalidArgument, match="without chat="):
        server.generate(PROMPT, chat=True)
    with pytest.warns(UserWarning, match="ignored zebra"):
        assert len(list(server.generate(PROMPT, n_predict=2, zebra=1))) == 2
    assert server.last["ignored_fields"] == ["zebra"]


def test_a_server_that_asks_for_a_key(start_server):
    address = start_server("--api-key", "secret")
    with pytest.raises(at.ServerError, match="401|key"):
        list(at.connect(address).generate("a", n_predict=1))
    assert len(list(at.connect(address, api_key="secret").generate("The", n_predict=2))) == 2


def test_what_a_server_could_send(server):
    from attnscope.connect import decode

    assert np.array_equal(decode(np.arange(6, dtype="<f4").tobytes(), [2, 3], "float32"), np.arange(6).reshape(2, 3))
    scales = np.array([2, 0.5], "<f4").tobytes()
    assert np.array_equal(decode(scales + bytes([1, 2, 3, 4]), [2, 2], "uint8"), [[2, 4], [1.5, 2]])
    for data, shape, dtype in ((b"1234", [2], "float32"), (b"", [1], "uint8"), (b"12", [1], "int7")):
        with pytest.raises(ValueError):
            decode(data, shape, dtype)
