"""The viewer in a notebook: what it asks for is answered with the very rows. In a browser: test_jupyterlab.py."""

import json

import numpy as np
import pytest

import attnscope as at

pytest.importorskip("anywidget")


@pytest.fixture
def asked(run):
    """A function that asks as the page does, and the widget."""
    view = at.show(run, view="heads", layer=3, log=False)
    sent = []
    view.send = lambda content, buffers=None: sent.append((content, buffers))

    def ask(path, query="r=0", **message):
        sent.clear()
        view._handle_custom_msg({"attnscope": 1, "id": "q", "path": path, "query": query, **message}, [])
        if not sent:
            return None
        ((content, buffers),) = sent
        assert content["id"] == "q" and len(buffers) == 1
        return content["status"], buffers[0]

    return ask, view


def test_rows_of_the_page_are_the_rows(asked, run, full):
    ask, _ = asked
    for token, layer, head in ((41, 3, 5), (0, 0, 0), (7, 29, 8)):
        status, body = ask("row", f"r=0&t={token}&layer={layer}&head={head}")
        assert status == 200 and np.array_equal(np.frombuffer(body, np.float32), full[token, layer, head, : token + 1])
    status, body = ask("tokens")
    assert status == 200 and json.loads(body)["ids"] == run.tokens.tolist()
    status, body = ask("sources", "")
    assert json.loads(body)["sources"][0]["name"] == "smollm2.attn" and json.loads(body)["live"] is False


def test_what_it_shows_is_said_in_words(asked):
    _, view = asked
    assert view.state == "view=heads&layer=3&log=0" and view.height == "640px"
    module = view._esm if isinstance(view._esm, str) else view._esm.read_text()
    assert len(module) > 50_000 and "render" in module


def test_questions_that_make_no_sense_are_refused(asked):
    ask, _ = asked
    for path, query in (("row", "r=7&t=1"), ("row", "r=0&t=4100"), ("row", "r=0&t=x"), ("nothing", ""), ("../info", "r=0"),
                        ("row", "r=" + "0" * 10_000), ("", ""), ("tile", "r=0&level=99")):
        status, body = ask(path, query)
        assert status >= 400 and json.loads(body)["error"]["message"]
    assert ask("info", attnscope=2) is None  # not ours


def test_what_cannot_be_shown(tmp_path):
    with pytest.raises(FileNotFoundError):
        at.show(tmp_path / "nothing.attn")
    with pytest.raises(at.InvalidArgument, match="empty"):
        at.show([])


def test_a_temporary_recording_stays_while_it_is_shown(tmp_path, smollm2, made_model):
    run = at.capture(made_model("tiny"), "some text", n_predict=2, ignore_eos=True, progress=False)
    view = at.show([run, smollm2])
    del run
    assert view._answers.answer("row", "r=0&t=3")[0] == 200
    assert view._answers.answer("info", "r=1")[0] == 200


@pytest.mark.parametrize(
    "state, sentence",
    [
        ({"view": "nonsense"}, "view must be one of text, heads"),
        ({"layer": 300}, "there is no layer 300; the recording has 30"),
        ({"layr": 3}, "shows no layr. Did you mean layer"),
        ({"head": -2}, "head must be from -1"),
        ({"token": 43}, "there is no token 43"),
        ({"budget": 7}, "a share from 0 to 1"),
        ({"layer": "x"}, "must be a whole number"),
    ],
)
def test_what_the_viewer_cannot_show(run, state, sentence):
    with pytest.raises(at.InvalidArgument, match=sentence):
        at.show(run, **state)
    view = at.show(run, view="heads")
    with pytest.raises(at.InvalidArgument, match=sentence):
        view.state = state
    assert view.state == "view=heads"


def test_state_is_a_dict_or_an_address_s_words(run):
    view = at.show(run)
    view.state = {"view": "matrix", "layer": 3, "log": False, "token": -1}
    assert view.state == "view=matrix&layer=3&log=0&token=-1"
    view.state = "view=text"
    with pytest.raises(at.WrongType, match="view.state is a dict"):
        view.state = 3
