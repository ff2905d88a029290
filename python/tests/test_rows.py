"""Rows are bit for bit those of `attnscope export`."""

import os
import re
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from conftest import PROMPT, command, export, known_model

import attnscope as at


def test_every_row_of_a_real_model_is_the_exported_one(run, full):
    assert run.shape == full.shape == (len(run), 30, 9, len(run))
    rows = run[:]
    assert rows.dtype == np.float32
    assert np.array_equal(rows, full)


def test_one_token_is_as_wide_as_what_it_sees(run, full, smollm2, tmp_path):
    exported = export(smollm2, tmp_path, "--token", 41)
    assert np.array_equal(run[41], exported)
    assert run[41].shape == (30, 9, 42)
    assert np.array_equal(run[41, 3, 5], exported[3, 5])


def test_a_large_token_is_the_exported_one(tmp_path):
    """Above a megabyte of keys the layers are read and computed by several threads."""
    known_model("smollm2")
    path = tmp_path / "long.attn"
    (tmp_path / "text").write_text((PROMPT + " ") * 24)
    command("capture", "-m", "smollm2", "-f", tmp_path / "text", "-n", 2, "--temp", 0, "--prompt-rows", "last:3", "-o", path)
    run = at.open(path)
    token = run.n_tokens - 1
    assert np.array_equal(run[token], export(path, tmp_path, "--token", token))
    assert run[token, ::7, [8, 1]].shape == (2, 5, token + 1)
    with pytest.raises(at.NotFound, match="without its queries"):
        run[0]
    with pytest.raises(at.NotFound, match="without its queries"):
        run.pattern(0)
    assert run.pattern(0, token=slice(-3, None)).shape == (9, 3, token + 1)


def test_pattern_is_heads_by_query_by_key(run, full):
    pattern = run.pattern(3)
    assert np.array_equal(pattern, full[:, 3].transpose(1, 0, 2))
    assert np.array_equal(np.triu(pattern, 1), np.zeros_like(pattern))
    assert np.array_equal(run.pattern(-1, token=slice(5, 9), head=[2, 0]), full[5:9, -1, :, :9].transpose(1, 0, 2)[[2, 0]])
    assert np.array_equal(run.pattern(3, token=41, head=5), full[41, 3, 5, :42])
    for wrong in ({"layer": 30}, {"layer": 3, "head": 9}, {"layer": 3, "token": 1000}):
        with pytest.raises((at.OutOfRange, at.InvalidArgument)):
            run.pattern(**wrong)


def test_rows_are_softmax_of_the_queries_and_keys_it_gives(run):
    layer = run.layers[7]
    q, k = run.queries(7).astype(np.float64), run.keys(7).astype(np.float64)
    assert q.shape == (len(run), 9, 64) and k.shape == (len(run), 3, 64)
    k = k.repeat(3, axis=1)
    for token in (0, 11, len(run) - 1):
        scores = np.einsum("hd,chd->hc", q[token], k[: token + 1]) * layer.scale
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        assert np.abs(run[token, 7] - weights).max() < 1e-6


@pytest.mark.parametrize(
    "arch, options",
    [
        ("llama", []),
        ("gemma2", ["--layers", "4"]),  # soft cap and a sliding window
        ("gemma3", ["--layers", "6"]),  # sliding windows
        ("bloom", []),  # ALiBi
        ("gpt-oss", ["--layers", "4"]),  # learned sinks
        ("deepseek2", []),  # latent attention
        ("lfm2", ["--layers", "6"]),  # layers without attention
        ("falcon-h1", []),
    ],
)
@pytest.mark.parametrize("cache", ["f16", "q8_0"])
def test_every_kind_of_attention(made_model, tmp_path, arch, options, cache):
    model = made_model(arch, "--arch", arch, *options)
    path = tmp_path / "made.attn"
    made = command("capture", "-m", model, "-p", PROMPT, "-n", 8, "--ignore-eos", "-o", path, "-ctk", cache, check=False)
    if made.returncode == 2:
        pytest.skip(made.stderr)  # a cache that this architecture has not got
    run = at.open(path)
    full = export(path, tmp_path, "--padded")
    assert np.array_equal(run[:], full)
    assert np.array_equal(run[-1], export(path, tmp_path, "--token", run.n_tokens - 1))
    for i, layer in enumerate(run.layers):
        if not layer.captured:
            assert layer.absent and not full[:, i].any()
        elif not layer.sinks:
            assert np.allclose(full[:, i, : layer.n_head].sum(-1), 1, atol=1e-5)


# T5: a bias by the distance of positions, in an encoder alone and beside a decoder.
@pytest.mark.parametrize("arch, n", [("t5encoder", 0), ("t5", 4)])
def test_rows_with_a_bias_by_distance(made_model, tmp_path, arch, n):
    path = tmp_path / "made.attn"
    command("capture", "-m", made_model(arch, "--arch", arch), "-p", PROMPT, "-n", n, "--ignore-eos", "-o", path)
    run = at.open(path)
    exported = export(path, tmp_path, "--padded")
    assert np.array_equal(run[:], np.nan_to_num(exported))  # NaN: there is no row
    assert np.array_equal(np.isnan(exported).all((-1, -2)), ~run.has_rows) and np.isnan(exported).any() == (n > 0)
    assert np.allclose(run[2, 0].sum(-1), 1, atol=1e-5)  # of the encoder's text, which all of it sees
    assert {layer.role for layer in run.layers} == ({""} if n == 0 else {"encoder", "decoder", "cross"})
    for what in (run.to_transformer_lens, run.diagnose):  # several layers of one number; rows that some tokens have not
        if n == 0:
            what()
        else:
            with pytest.raises(at.Unsupported):
                what()
    with subprocess.Popen([os.path.join(os.path.dirname(sys.executable), "attnscope"), "view", path, "--no-browser", "--port", "0"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as page:  # fmt: skip
        try:
            url = re.search(r"http://[\w.:]+", next(line for line in page.stdout if "http://" in line)).group()
            for token in (2, len(run) - 1):
                with urllib.request.urlopen(f"{url}/view/api/row?r=0&t={token}", timeout=60) as answer:
                    told = np.frombuffer(answer.read(), np.float32)
                rows = run[token][run[token].sum(-1) > 0.5]  # those that the token has
                assert np.abs(told - rows.mean(0)).max() < 1e-6
            for layer in range(run.n_layers):  # in words, from the file and from memory
                for token in (2, len(run) - 1):
                    if run.has_rows[token, layer]:
                        continue
                    with pytest.raises(urllib.error.HTTPError) as refused:
                        urllib.request.urlopen(f"{url}/view/api/row?r=0&t={token}&layer={layer}", timeout=60)
                    assert f"token {token} has no row in layer {layer}: that is" in refused.value.read().decode()
            assert page.poll() is None
        finally:
            page.terminate()


def test_an_encoder_and_its_decoder(made_model, tmp_path):
    model = made_model("t5", "--arch", "t5")
    run = at.capture(model, PROMPT, n_predict=5, ignore_eos=True, temperature=0, flash_attention="off")
    path = tmp_path / "made.attn"
    command("capture", "-m", model, "-p", PROMPT, "-n", 5, "--ignore-eos", "--temp", 0, "-fa", "off", "-o", path)
    assert np.array_equal(run[:], at.open(path)[:]) and run.verify().good
    n_text = len(run) - 6  # and what the decoder begins with
    assert list(run.positions) == [*range(n_text), *range(6)]
    of_text = np.array([layer.role == "encoder" for layer in run.layers])
    assert np.array_equal(run.has_rows, (np.arange(len(run)) < n_text)[:, None] == of_text)
    assert np.array_equal(run.has_rows, run[:].sum((-1, -2)) > 0.5)
    last = len(run) - 1
    for layer in np.flatnonzero(of_text):
        with pytest.raises(at.NotFound, match="layer of the encoder, and the token is the decoder's"):
            run.answer(last, reduce="mean", layers=[layer])
    assert at.capture(model, PROMPT, n_predict=0).n_tokens == n_text
    with pytest.raises(at.Unsupported, match="capture"):
        at.Session(model)


def test_gemma3(folder, tmp_path):
    known_model("gemma3-270m")
    path = tmp_path / "gemma.attn"
    command("capture", "-m", "gemma3-270m", "-p", PROMPT, "-n", 4, "--temp", 0, "-o", path)
    run = at.open(path)
    assert np.array_equal(run[:], export(path, tmp_path, "--padded"))
    assert run.verify().good


def test_what_it_says_of_its_tokens(run, smollm2):
    assert run.text.startswith("<|im_start|>") and PROMPT in run.text
    assert len(run.tokens) == len(run.texts) == len(run.positions) == len(run) == run.n_tokens
    assert run.tokens.dtype == np.int32 and list(run.positions) == list(range(len(run)))
    assert list(run.columns) == [i + 1 for i in range(len(run))]
    assert (run.kind[: run.n_prompt] == "prompt").all() and (run.kind[run.n_prompt :] == "generated").all()
    assert not run.verdicts.any()
    assert run.model["architecture"] == "llama" and run.model["n_layer"] == 30
    assert run.info["settings"]["temp"] == 0 and run.complete
    assert run.layers[0].n_head == 9 and run.layers[0].n_head_kv == 3 and run.layers[0].captured
    assert "43 tokens" in repr(run)
    assert np.asarray(run).shape == run.shape
    assert [r.shape for r in run][:2] == [(30, 9, 1), (30, 9, 2)]


def test_arrays_own_their_memory(smollm2):
    run = at.open(smollm2)
    row = run[41, 3, 5]
    before = row.copy()
    run.close()
    del run
    assert np.array_equal(row, before)
    row[0] = 7  # writable
    assert np.from_dlpack(row)[0] == 7 and np.shares_memory(np.from_dlpack(row), row)  # others get the same memory
