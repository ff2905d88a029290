"""Every reduction, score and policy against NumPy on the exported rows."""

import numpy as np
import pytest

import attnscope as at
from conftest import PROMPT, command

TOKEN = 41


@pytest.fixture(scope="module")
def row(full):
    """(layer, head, column) of one token."""
    return full[TOKEN, ..., : TOKEN + 1]


def test_none_is_every_row_bit_for_bit(run, row):
    answer = run.answer(TOKEN)
    assert np.array_equal(answer, row) and answer.token == TOKEN and answer.n_columns == TOKEN + 1
    assert np.array_equal(run.answer(TOKEN, layers=[3, 4], heads=[2]).values, row[3:5, 2:3])
    assert np.array_equal(run.answer(-2, layers=-1, heads=slice(0, 2)).values, row[-1:, :2])


@pytest.mark.parametrize(
    "reduce, formula",
    [
        ("mean", lambda r: r.mean((0, 1), dtype=np.float64)),
        ("max", lambda r: r.max((0, 1))),
        ("per_layer", lambda r: r.mean(1, dtype=np.float64)),
        ("entropy", lambda r: -(r * np.log(np.where(r > 0, r, 1))).sum(-1, dtype=np.float64)),
        ("first_share", lambda r: r[..., 0]),
    ],
)
def test_reductions(run, row, reduce, formula):
    expected = formula(row)
    assert np.allclose(run.answer(TOKEN, reduce=reduce).values, expected, rtol=1e-5, atol=1e-6)
    if reduce in ("mean", "max", "per_layer"):
        windowed = run.answer(TOKEN, reduce=reduce, window=10)
        assert windowed.first_column == TOKEN + 1 - 10
        assert np.allclose(windowed.values, expected[..., -10:], rtol=1e-5, atol=1e-6)


def test_lookback_ratio(run, row):
    c, g = row[..., : run.n_prompt].mean(-1), row[..., run.n_prompt :].mean(-1)
    assert np.allclose(run.answer(TOKEN, reduce="lookback_ratio").values, c / (c + g), rtol=1e-4)


def test_top_k(run, row):
    mean = row.mean((0, 1))
    answer = run.answer(TOKEN, reduce="top_k", top_k=5)
    assert np.array_equal(answer.columns, np.argsort(-mean, kind="stable")[:5])
    assert np.allclose(answer.values, np.sort(mean)[::-1][:5], atol=1e-6)


def test_spans(run, row):
    begin, end = run.find("Chen repairs clocks")
    assert "".join(run.texts[begin:end]).strip() == "Chen repairs clocks"
    answer = run.answer(TOKEN, reduce="spans", spans=[(begin, end), (0, 1)])
    mean = row.mean((0, 1))
    assert np.allclose(answer.values, [mean[begin:end].sum(), mean[0]], atol=1e-6)
    with pytest.raises(at.NotFound):
        run.find("Denmark")


def test_many_tokens_and_their_scores(run, full):
    means = full.mean((1, 2), dtype=np.float64)
    answers = run.answer(reduce="mean", accumulate=["total", "mean", "window_mean", "last", "brightness"], window_rows=8)
    assert list(answers.tokens) == list(range(len(run)))
    assert np.allclose(answers.stack(), means, atol=1e-6)
    scores = answers.scores
    visits = np.arange(len(run), 0, -1)
    assert np.array_equal(scores["visits"], visits)
    assert np.allclose(scores["total"], means.sum(0), atol=1e-5)
    assert np.allclose(scores["mean"], means.sum(0) / visits, atol=1e-6)
    assert np.allclose(scores["window_mean"], means[-8:].mean(0), atol=1e-6)
    assert np.allclose(scores["last"], means[-1], atol=1e-6)
    assert scores["brightness"].max() <= 10_000
    some = run.answer(slice(10, 30), reduce="mean", every=5)
    assert list(some.tokens) == [10, 15, 20, 25]
    assert len(run.answer(slice(5, 5))) == 0


@pytest.mark.parametrize("policy, score", [("h2o", "total"), ("snapkv", "window_mean"), ("tova", "last"), ("brightness", "brightness")])
def test_policies(run, policy, score):
    pruned = run.prune(policy, 20, pool=1)
    scores = run.answer(reduce="mean", accumulate=score).scores[score]
    assert len(pruned.kept) == 20 and pruned.fits
    assert np.allclose(pruned.scores, scores)
    dropped = np.setdiff1d(np.arange(len(run)), pruned.kept)
    assert scores[dropped].max() <= scores[pruned.kept].min()
    whole = run.prune(policy, 20, chunks=[(0, 30), (30, len(run))], pinned=[1], pool=1)
    assert list(whole.kept) == list(range(30, len(run)))


def test_maps(run, full):
    mean = full.mean((1, 2), dtype=np.float64)
    assert np.allclose(run.map(), mean, atol=1e-6)
    assert np.array_equal(run.map(layers=[3], each_row=True, exact=True)[0], run.pattern(3))
    tiles = run.map(tile=(10, 10))
    assert tiles.shape == (5, 5)
    assert np.allclose(tiles[1, 0], mean[10:20, :10].sum(1).mean(), atol=1e-6)
    assert np.allclose(tiles.sum(1), 1, atol=1e-5)
    part = run.map(slice(10, 20), slice(5, 15), layers=7, heads=2)
    assert np.allclose(part, full[10:20, 7, 2, 5:15], atol=1e-6)


def test_maps_of_tokens_without_queries(folder):
    path = folder / "few.attn"
    command("capture", "-m", "smollm2", "--temp", "0", "-n", "4", "-p", PROMPT, "--prompt-rows", "last:5", "-o", path)
    run = at.open(path)
    rows = run.map()
    n = run.n_prompt - 5
    assert np.isnan(rows[:n]).all() and np.allclose(rows[n:].sum(1), 1, atol=1e-5)
    assert np.isnan(run.map(tile=n, each_row=True)[:, :, 0]).all()
    tile = run.map(slice(n - 2, n + 2), tile=(4, 1))[0]  # those without count for nothing
    assert np.allclose(tile, rows[n : n + 2, : len(tile)].mean(0), atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"reduce": "median"}, {"layers": [30]}, {"heads": []}, {"top_k": 0, "reduce": "top_k"}, {"spans": [(5, 2)], "reduce": "spans"},
              {"accumulate": "most"}, {"window": -1}, {"every": 0}]
)
def test_what_makes_no_sense(run, wrong):
    with pytest.raises(at.Error):
        run.answer(TOKEN, **wrong)


def test_answers_need_tokens_in_order(run):
    with pytest.raises(at.InvalidArgument, match="without a step"):
        run.answer(slice(None, None, 2))
    with pytest.raises(at.OutOfRange):
        run.answer(43)


def test_ranges_are_slices(run):
    some = run.answer(range(38, 43), reduce="mean")
    assert some.tokens.tolist() == list(range(38, 43)) and np.array_equal(some.stack(), run.answer(slice(38, 43), reduce="mean").stack())
    assert np.array_equal(run.map(range(38, 43), range(0, 20)), run.map(slice(38, 43), slice(0, 20)))
    for wrong in (range(40, 99), range(-3, 2)):
        with pytest.raises(at.OutOfRange, match="is not within the 43"):
            run.answer(wrong)
    with pytest.raises(at.InvalidArgument, match="without a step"):
        run.answer(range(0, 40, 2))


def test_an_answer_shows_its_values(run):
    shown = repr(run.answer(40, reduce="top_k", top_k=3))
    answer = run.answer(40, reduce="top_k", top_k=3)
    assert str(answer.columns.tolist()) in shown
    values = [float(v) for v in shown.split("[")[-1].split("]")[0].split(",")]
    assert np.allclose(values, answer.values, atol=1e-4)
    assert len(repr(run.answer(40))) < 3000
