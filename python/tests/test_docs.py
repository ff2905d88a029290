"""docs/python.md does what it says: its Python runs as it stands there, and `help` teaches."""

import pathlib
import pydoc
import re
import shutil
import types

import numpy as np
import pytest
from conftest import command, known_model

import attnscope as at

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "python.md"


def test_every_block_runs(server, smollm2, tmp_path, monkeypatch, capsys):
    pytest.importorskip("anywidget")
    text = PAGE.read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    indices = re.findall(r"^\| `((?:run|numpy)[^`]*)`(?:, `([^`]*)`)?", text, re.M)
    assert len(blocks) >= 4 and len(indices) >= 5
    # What the page names, in the folder where it is read.
    (tmp_path / "model.gguf").symlink_to(known_model("smollm2"))
    shutil.copy(smollm2, tmp_path / "other.attn")
    command("export", smollm2, "--to", "halo-weave", "-o", tmp_path / "somebody-elses-folder")
    other = at.open(smollm2)
    names = {"array": other[20:30, :, :, :20], "outputs": types.SimpleNamespace(attentions=other.to_transformers()), "numpy": np}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(at, "capture", lambda *a, capture=at.capture, **k: capture(*a, progress=False, seed=7, **k))
    for number, block in enumerate(blocks):
        code = compile(block.replace("http://127.0.0.1:5001", server.url), f"{PAGE.name}, block {number + 1}", "exec")
        exec(code, names)
    for pair in indices:
        for expression in filter(None, pair):
            assert eval(expression, names).dtype == np.float32
    assert "Paris" in capsys.readouterr().out


PUBLIC = [(name, getattr(at, name)) for name in dir(at) if not name.startswith("_") and callable(getattr(at, name))]


@pytest.mark.parametrize("name, thing", PUBLIC)
def test_everything_public_is_explained(name, thing):
    assert thing.__doc__ and len(thing.__doc__) > 20, name
    if isinstance(thing, type) and not issubclass(thing, BaseException):
        for member, value in vars(thing).items():
            explained = value.fget if isinstance(value, property) else value
            if not member.startswith("_") and callable(explained):
                assert explained.__doc__ or getattr(value, "__doc__", None), f"{name}.{member}"


def test_help_teaches():
    text = pydoc.render_doc(at)
    for word in ("at.open", "at.capture", "token, layer, head, column", "float32", "sum to 1"):
        assert word in text
    answer = pydoc.render_doc(at.Run.answer)
    for name in ("mean", "top_k", "lookback_ratio", "2407.07071", "2306.14048", "nats"):
        assert name in answer


def test_help_lists_what_there_is():
    text = pydoc.plain(pydoc.render_doc(at))
    for name in ("capture(model", "open(path", "diagnose(capture", "connect(url", "show(run", "class Run", "class Session", "class NotARecording"):
        assert name in text, name
    assert "_only_read" not in pydoc.plain(pydoc.render_doc(at.Session))
    assert set(at.__all__) <= set(dir(at))
