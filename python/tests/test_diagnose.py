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
    assert one.good and "as transformers gives it" in one.axes["why"] and one.axes["prompt"]
    for other in (np.stack(maps), np.concatenate(maps), [m[0] for m in maps], tuple(m[0] for m in maps)):
        found = at.diagnose(other)
        assert (found.cause, found.good, len(found.tokens)) == (one.cause, one.good, len(one.tokens))
        assert found.axes["read_as"].endswith("head 9, query 43, key 43")
        assert "read as layer 30" in repr(found)


def both_ways(scores_of=None):
    """(layer, head, query, key) weights of an encoder, or scores."""
    rng = np.random.default_rng(3)
    raw = rng.normal(0, 2, (6, 4, 32, 32)).astype(np.float32)
    return raw if scores_of else softmax(raw)


def causal(fill):
    raw = both_ways(True)
    return np.where(np.tri(32, dtype=bool), raw, np.float32(fill))


@pytest.mark.parametrize(
    "maps, cause",
    [
        (both_ways(), "not-causal"),
        (causal(-np.inf), "raw-scores"),
        (softmax(causal(-np.inf)).swapaxes(-1, -2), "transposed"),
        (softmax(causal(-np.inf).swapaxes(-1, -2)).swapaxes(-1, -2), "other-axis"),
        (softmax(causal(-np.inf)), "clean"),
    ],
)
def test_memory_and_file_agree(tmp_path, maps, cause):
    np.save(tmp_path / "x.npy", maps)
    file = at.diagnose(tmp_path / "x.npy")
    assert file.cause == cause
    for given in (maps, tuple(maps[:, None]), list(maps), maps[:, None], np.asfortranarray(maps), maps.astype(">f4")):
        memory = at.diagnose(given)
        assert memory.conclusion == file.conclusion and memory.axes["prompt"] == file.axes["prompt"]
        assert [f["evidence"] for f in memory.findings] == [f["evidence"] for f in file.findings]


def test_an_encoder_s_own_rows_are_not_called_learned_sinks(made_model):
    run = at.capture(made_model("bert", "--arch", "bert"), "some text that is read both ways", n_predict=0, progress=False)
    assert run.verify()
    assert at.diagnose(run.to_transformers()).cause == "not-causal"


def test_steps_of_layers_as_generate_returns_them():
    rng = np.random.default_rng(5)
    prompt = tuple(softmax(np.where(np.tri(16, dtype=bool), rng.normal(0, 2, (1, 4, 16, 16)), -np.inf)).astype(np.float32) for _ in range(3))
    steps = [tuple(softmax(rng.normal(0, 2, (1, 4, 1, n))).astype(np.float32) for _ in range(3)) for n in range(17, 23)]
    found = at.diagnose((prompt, *steps))
    assert found.good and len(found.tokens) == 22, found
    assert "generate()" in found.axes["why"] and "layer 3 (an array each)" in found.axes["read_as"]
    broken = at.diagnose((prompt, *((s[0],) * 3 for s in steps)))
    assert broken.cause == "aliasing" and broken.findings[0]["n_tokens"] == 6


def test_axes_can_be_said(tmp_path):
    square = np.abs(np.random.default_rng(0).normal(size=(12, 12, 12))).astype(np.float32)
    square /= square.sum(-1, keepdims=True)
    np.save(tmp_path / "square.npy", square)
    for given in (square, tmp_path / "square.npy"):
        with pytest.raises(at.Unsupported, match='axes="layer,head,key" or axes="layer,query,key"') as e:
            at.diagnose(given)
        assert "--" not in str(e.value)
        found = at.diagnose(given, axes="layer,head,key")
        assert found.axes["read_as"] == "layer 12, head 12, key 12" and found.axes["why"] == "as axes= says"
        assert len(at.diagnose(given, axes=["layer", "query", "key"]).tokens) == 12
        with pytest.raises(at.InvalidArgument, match="axes= is a list of token"):
            at.diagnose(given, axes="layer,nonsense,key")
    assert len(at.diagnose([square, square[::-1]], axes="token,layer,head,key").tokens) == 2
    with pytest.raises(at.InvalidArgument, match="give a list"):
        at.diagnose(iter([square]), axes="token,layer,head,key")


@pytest.mark.parametrize("given", [{"attentions": (np.zeros((1, 2, 3, 3)),)}, {}])
def test_a_dict_is_asked_for_its_values(given):
    with pytest.raises(at.InvalidArgument, match="give one of its values"):
        at.diagnose(given)
    with pytest.raises(at.InvalidArgument, match="is of a file"):
        at.diagnose(np.zeros((2, 2, 2, 2)), shape=(2, 2))


def test_what_was_not_looked_at_is_named(tmp_path, scores):
    good = np.zeros((12, 6, 4, 31), np.float32)
    for i, s in enumerate(scores):
        good[i, ..., : s.shape[-1]] = softmax(s)
    np.savez(tmp_path / "two.npz", good=good, other=good * 50 - 20)
    found = at.diagnose(tmp_path / "two.npz")
    assert found.left_out == ["other"] and "Not looked at: other." in found.conclusion and "Not looked at" in repr(found)
    assert at.diagnose(tmp_path / "two.npz", array="other").cause != "clean"
    assert any('array="other" looks at it' in note for note in found.notes)


def test_plain_scores_with_zeros_above_the_diagonal():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        raw = np.zeros((30, 6, 4, 30), np.float32)
        for t in range(30):
            raw[t, ..., : t + 1] = rng.normal(0, 2, (6, 4, t + 1))
        found = at.diagnose(raw)
        assert found.cause in ("raw-scores", "early-scores") and len(found.findings) == 1, found


def test_the_title_of_one_copied_layer(scores):
    good = [softmax(s) for s in scores]
    for g in good:
        g[4] = g[1]
    found = at.diagnose(good)
    assert found.cause == "aliasing" and "All layers" not in found.conclusion


def test_a_size_that_does_not_fit(tmp_path, scores):
    np.stack([softmax(s[..., :20]) for s in scores]).tofile(tmp_path / "x.bin")
    with pytest.raises(at.Damaged, match=r"the size does not fit it: \[12, 6, 4, 20\] does"):
        at.diagnose(tmp_path / "x.bin", shape=(12, 6, 4, 21))


def test_verification_of_no_tokens_says_so():
    from attnscope.report import Verification

    report = Verification({"good": False, "damage": "", "n_tokens": 0, "n_ok": 0})
    assert not report
    assert repr(report) == "<Verification: no tokens: there is nothing to verify>"
