"""Verdicts and diagnoses as objects."""

import shutil
import sqlite3

import numpy as np
import pytest

import attnscope as at


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.fixture
def scores():
    """(token, layer, head, column) raw scores of 12 tokens."""
    rng = np.random.default_rng(1)
    return [rng.normal(0, 3, (6, 4, n)).astype(np.float32) for n in range(20, 32)]


def test_verify(run):
    seen = []
    report = run.verify(progress=lambda step, fraction: seen.append((step, fraction)))
    assert report and report.good and report.complete and report.damage == ""
    assert report.n_tokens == report.n_ok == len(run) and 0 < report.worst_ratio < 1
    assert report.n_proven_again == report.n_witnesses > 0
    assert seen and all(0 <= f <= 1 for _, f in seen)
    assert len(report.table) == len(run)
    assert "good" in repr(report)
    with pytest.raises(AttributeError, match="has no goodness"):
        report.goodness
    assert run.witnesses(5)[0]["error"] < run.witnesses(5)[0]["tolerance"]


def test_verify_ends_with_an_exception_of_the_callback(run):
    def bad(*_):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        run.verify(progress=bad)


def test_verify_of_a_file_that_was_changed(tmp_path, smollm2):
    path = tmp_path / "changed.attn"
    shutil.copy(smollm2, path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE frame SET verdict = 2 WHERE rowid = 5")
    db.close()
    report = at.open(path).verify()
    assert not report and report.damage


def test_a_good_array(scores):
    good = [softmax(s) for s in scores]
    diagnosis = at.diagnose(good)
    assert diagnosis and diagnosis.cause == "clean"
    assert len(diagnosis.table) == 12


def test_broken_arrays(scores):
    good = [softmax(s) for s in scores]
    assert at.diagnose(scores).cause == "raw-scores"
    one_layer = [np.repeat(g[-1:], 6, axis=0) for g in good]
    aliased = at.diagnose(one_layer)
    assert not aliased and aliased.cause == "aliasing"
    assert aliased.findings[0]["fix"] and aliased.conclusion in repr(aliased)
    broken = [g.copy() for g in good]
    for b in broken:
        b[2, 1, 3] = np.nan
    assert not at.diagnose(broken)


def test_arrays_of_other_dtypes_and_strides(scores):
    good = [softmax(s) for s in scores]
    rectangular = np.zeros((12, 6, 4, 31), np.float64)
    for i, g in enumerate(good):
        rectangular[i, ..., : g.shape[-1]] = g
    for capture in (rectangular, rectangular.astype(np.float16), np.asfortranarray(rectangular), rectangular[::2]):
        assert at.diagnose(capture).cause == "clean"
    assert at.diagnose(rectangular[0][..., :20]).cause == "clean"


def test_attentions_of_transformers(run):
    attentions = tuple(np.asarray(a) for a in run.to_transformers())
    assert at.diagnose(attentions).cause == "clean"


def test_files(tmp_path, scores, smollm2, run):
    np.save(tmp_path / "scores.npy", np.stack([softmax(s)[-1:].repeat(6, 0)[..., :20] for s in scores]))
    assert not at.diagnose(tmp_path / "scores.npy")
    assert at.diagnose(smollm2).cause == run.diagnose().cause == "clean"
    with pytest.raises(at.NotFound):
        at.diagnose(tmp_path / "nothing.npy")


@pytest.mark.parametrize("what", [np.zeros((3, 3)), np.array(["a"]), 3, [np.zeros(3)], np.zeros((0, 2, 2, 2)), []])
def test_what_is_no_capture(what):
    with pytest.raises(at.Error):
        at.diagnose(what)


def test_maps_of_a_prompt_are_read_as_such_or_asked_about(run):
    maps = [np.asarray(m) for m in run.to_transformers()]
    one = at.diagnose(tuple(maps))
    stacked = at.diagnose(np.stack(maps))
    assert (stacked.cause, stacked.good, len(stacked.tokens)) == (one.cause, one.good, len(one.tokens)) and stacked.good
    with pytest.raises(at.Unsupported, match="may be"):
        at.diagnose(np.concatenate(maps))
