"""The shapes other packages take. What needs those packages themselves is in test_heavy.py."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

import attnscope as at


def test_transformers_tuple(run, full):
    attentions = run.to_transformers()
    assert len(attentions) == 30
    assert all(tuple(a.shape) == (1, 9, 43, 43) for a in attentions)
    assert np.array_equal(np.asarray(attentions[7])[0], full[:, 7].transpose(1, 0, 2))
    assert np.array_equal(np.asarray(run.to_transformers([-1])[0])[0], full[:, -1].transpose(1, 0, 2))


def test_transformer_lens_names(run, full):
    cache = run.to_transformer_lens()
    assert len(cache) == 30 and "blocks.3.attn.hook_pattern" in cache
    pattern = cache["blocks.3.attn.hook_pattern"]
    assert np.array_equal(np.asarray(pattern)[0], full[:, 3].transpose(1, 0, 2))
    assert cache["pattern", 3] is pattern and cache["pattern", -27] is pattern and cache["pattern", 3, "attn"] is pattern
    for wrong in ("blocks.30.attn.hook_pattern", ("pattern", 30), ("q", 3), 3):
        with pytest.raises(KeyError):
            cache[wrong]
    with pytest.raises(at.NoSuchKey, match="there is no 'blocks.3.attn.hook_q': .* blocks.0.attn.hook_pattern to blocks.29.attn.hook_pattern$"):
        cache["blocks.3.attn.hook_q"]
    assert "blocks.3.attn.hook_q" not in cache and cache.get("q") is None
    assert np.asarray(cache.stack_activation("pattern")).shape == (30, 1, 9, 43, 43)
    assert np.array_equal(np.asarray(cache.remove_batch_dim()["pattern", 3]), full[:, 3].transpose(1, 0, 2))


def test_rows_that_are_not_there_are_nan(made_model, tmp_path):
    """Of an encoder and its decoder (T5) a token takes part in some layers only: zeros would be an answer."""
    run = at.capture(made_model("t5", "--arch", "t5"), "a text", n_predict=4, ignore_eos=True, temperature=0, progress=False)
    absent = ~run.has_rows
    assert absent.any() and not absent.all(axis=1).any()
    filled = run[:]
    filled[absent] = np.nan
    for layer, pattern in enumerate(run.to_transformers()):
        assert np.array_equal(np.asarray(pattern)[0], filled[:, layer].transpose(1, 0, 2), equal_nan=True)
    xarray = pytest.importorskip("xarray")
    assert np.array_equal(run.to_xarray().values, filled, equal_nan=True)
    assert np.array_equal(run.to_xarray(layers=[1, 5], tokens=[0, -1]).values, filled[[0, -1]][:, [1, 5]], equal_nan=True)
    run.to_zarr(tmp_path / "a.zarr")
    assert np.array_equal(xarray.open_zarr(tmp_path / "a.zarr")["attention"].values, filled, equal_nan=True)
    n_text = int(np.flatnonzero([layer.role == "decoder" for layer in run.layers])[0])
    first = int(np.flatnonzero(run.has_rows[:, n_text])[0])  # of the decoder's tokens
    for layer, tokens in ((0, slice(0, first)), (n_text, slice(first, None))):
        view = run.to_circuitsvis(layer)
        assert view["tokens"] == run.texts[tokens]
        assert np.array_equal(view["attention"], run[:, layer][tokens, :, tokens].transpose(1, 0, 2))
        assert np.allclose(view["attention"].sum(-1), 1, atol=1e-5)
    cross = next(i for i, layer in enumerate(run.layers) if layer.role == "cross")
    with pytest.raises(at.Unsupported, match="the encoder's, layers=.* the decoder's"):
        run.to_circuitsvis(cross)


def test_nothing_is_pruned_out_of_no_data(made_model):
    run = at.capture(made_model("llama"), "a text", n_predict=0, prompt_rows="none", progress=False)
    for policy in ("h2o", "snapkv", "tova", "brightness"):
        with pytest.raises(at.NotFound, match="recorded with its queries"):
            run.prune(policy, 2)


def test_circuitsvis(run, full):
    arguments = run.to_circuitsvis(3)
    assert arguments["tokens"] == run.texts
    assert np.array_equal(arguments["attention"], full[:, 3].transpose(1, 0, 2))


def test_xarray(run, full):
    pytest.importorskip("xarray")
    array = run.to_xarray(layers=[2, 5])
    assert array.dims == ("token", "layer", "head", "column")
    assert np.array_equal(array.values, full[:, [2, 5]])
    assert np.array_equal(array.sel(token=41, layer=5, head=3).values, full[41, 5, 3])
    assert str(array.text[5].values) == run.texts[5]
    assert run.to_xarray(tokens=[4, 7], heads=2).shape == (2, 30, 1, 8)


def test_zarr(run, full, tmp_path):
    zarr = pytest.importorskip("zarr")
    run.to_zarr(tmp_path / "a.zarr")
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert np.array_equal(group["attention"][:], full)
    assert np.array_equal(group["id"][:], run.tokens)
    assert group.attrs["text"] == run.texts
    with pytest.raises(at.InvalidArgument, match="exists"):
        run.to_zarr(tmp_path / "a.zarr")
    xarray = pytest.importorskip("xarray")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = xarray.open_zarr(tmp_path / "a.zarr")
    assert opened.attention.dims == ("token", "layer", "head", "column")
    array = run.to_xarray()
    assert set(opened.attention.coords) == set(array.coords)
    for name, values in array.coords.items():
        assert opened[name].dims == values.dims and [str(v) for v in opened[name].values] == [str(v) for v in values.values]
    (tmp_path / "a.zarr" / "stale").write_text("of the one before")
    run.to_zarr(tmp_path / "a.zarr", overwrite=True, layers=[3])
    assert not (tmp_path / "a.zarr" / "stale").exists() and [p.name for p in tmp_path.iterdir()] == ["a.zarr"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(at.InvalidArgument, match="is no Zarr group"):
        run.to_zarr(tmp_path / "mine", overwrite=True)


def test_a_full_disk_leaves_no_part_of_a_zarr_group(run, tmp_path):
    """A limit of this process's file size is the disk that is full here."""
    zarr = pytest.importorskip("zarr")
    run.to_zarr(tmp_path / "a.zarr", layers=[0])
    full = subprocess.run([sys.executable, "-c", FULL, run.path, tmp_path / "a.zarr"], capture_output=True, text=True)
    assert full.stdout.startswith("IOFailed cannot write"), full.stdout + full.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]
    assert zarr.open_group(tmp_path / "a.zarr", mode="r")["attention"].shape[1] == 1


FULL = """
import resource, signal, sys
import attnscope as at
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = at.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    run.to_zarr(sys.argv[2], overwrite=True)
except at.Error as e:
    print(type(e).__name__, e)
"""


def test_layers_carry_the_numbers_of_the_model(made_model):
    """Of six layers of this model three have attention."""
    run = at.capture(made_model("lfm2", "--arch", "lfm2", "--layers", "6"), "some text", n_predict=2, ignore_eos=True, progress=False)
    numbers = [layer.layer for layer in run.layers]
    assert len(numbers) == 3 and numbers != [0, 1, 2]
    cache = run.to_transformer_lens()
    assert list(cache) == [f"blocks.{n}.attn.hook_pattern" for n in numbers]
    assert np.array_equal(np.asarray(cache["pattern", numbers[1]])[0], run.pattern(1))
    assert len(run.to_transformers()) == 3
