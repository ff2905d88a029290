"""Against the packages themselves: transformers, TransformerLens, BertViz, CircuitsVis. `make python-heavy` runs these."""

import os

import numpy as np
import pytest
from conftest import PROMPT, known_model

import attnscope as at

pytestmark = pytest.mark.heavy
torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def dequantised(tmp_path_factory):
    """SmolLM2 with all its weights in float32: what both engines compute with is then the same."""
    gguf = pytest.importorskip("gguf")
    path = tmp_path_factory.mktemp("f32") / "smollm2-f32.gguf"
    reader = gguf.GGUFReader(known_model("smollm2"))
    architecture = bytes(reader.fields["general.architecture"].parts[-1]).decode()
    writer = gguf.GGUFWriter(path, architecture)
    for field in reader.fields.values():
        if field.name in ("general.architecture", "general.file_type") or field.name.startswith("GGUF."):
            continue
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def f32_run(dequantised):
    return at.capture(dequantised, PROMPT, n_predict=1, temperature=0, cache_type_k="f32", cache_type_v="f32", flash_attention="off", progress=False)


@pytest.fixture(scope="module")
def theirs(dequantised, f32_run):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        dequantised.parent, gguf_file=dequantised.name, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.inference_mode():
        return model(torch.from_numpy(f32_run.tokens.astype(np.int64))[None], output_attentions=True).attentions


def test_transformers_agrees(f32_run, theirs):
    ours = f32_run.to_transformers()
    assert len(ours) == len(theirs) == 30
    print("\n| layer | largest difference | mean |\n|---|---|---|")
    for layer, (a, b) in enumerate(zip(ours, theirs)):
        difference = (a - b).abs()
        print(f"| {layer} | {difference.max():.1e} | {difference.mean():.1e} |")
        assert a.shape == b.shape and difference.max() <= 1e-4


def test_diagnose_takes_what_transformers_returns(theirs):
    assert at.diagnose(tuple(theirs)).cause == "clean"


def test_bertviz_renders_what_it_is_handed(run):
    bertviz = pytest.importorskip("bertviz")
    html = bertviz.head_view(**run.to_bertviz([0, 1]), html_action="return").data
    assert "Oslo" in html and str(len(run.texts)) and len(html) > 10_000
    html = bertviz.model_view(**run.to_bertviz([0, 1]), html_action="return").data
    assert "Oslo" in html


def test_circuitsvis_renders_what_it_is_handed(run):
    circuitsvis = pytest.importorskip("circuitsvis")
    html = str(circuitsvis.attention.attention_patterns(**run.to_circuitsvis(3)))
    assert "AttentionPatterns" in html and "Oslo" in html


def test_transformer_lens_finds_heads_in_our_cache(run, full):
    pytest.importorskip("transformer_lens")
    from transformer_lens.head_detector import detect_head

    class Model:
        """What detect_head asks of a model when it is given a cache."""

        class cfg:
            n_layers, n_heads, n_ctx, device, dtype = 30, 9, 8192, "cpu", torch.float32

        class tokenizer:
            bos_token_id = 1

        def to_tokens(self, text):
            return torch.from_numpy(run.tokens.astype(np.int64))[None]

    found = detect_head(Model(), run.text, "previous_token_head", cache=run.to_transformer_lens(remove_batch_dim=True))
    assert found.shape == (30, 9)
    n = len(run)
    previous = full[np.arange(1, n), :, :, np.arange(n - 1)].sum(0) / full.sum((0, 3))
    assert np.allclose(found.numpy(), previous, atol=2e-2)
