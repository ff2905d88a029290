#!/usr/bin/env python3
"""Rows of encoders against transformers in float32: a BERT and a T5 with made weights, eager attention.

  bench/encoders_vs_transformers.py [--attnscope build/bin/attnscope] [--gguf .deps/llama.cpp/gguf-py] [--flash-attn off|on]

Each model is made by `attnscope models make --type f32`, read by `attnscope capture -n 0`, and its rows are exported; the same
weights go into transformers' own BertModel and T5EncoderModel, which give their attentions. Prints the largest difference of any
weight of any row and ends with 1 where it is above 1e-5. Needs torch, transformers and numpy; nothing is fetched.

ggml computes GELU from a table of half precision: BERT's activation is replaced by that table here, or the second layer's rows
would differ by what the engine, not the capture, rounds."""
import argparse, json, pathlib, subprocess, sys, tempfile

import numpy as np
import torch
from transformers import BertConfig, BertModel, T5Config, T5EncoderModel

BOUND = 1e-5
SHAPE = dict(layers=3, heads=4, head_dim=32)


class EngineGelu(torch.nn.Module):
    """ggml_vec_gelu_f32 with GGML_GELU_FP16: the tanh form, argument and result rounded to half precision."""

    def forward(self, x):
        half = x.half().float()
        y = 0.5 * half * (1 + torch.tanh(0.79788456080286535587989211986876 * half * (1 + 0.044715 * half * half)))
        return torch.where(x <= -10, torch.zeros_like(x), torch.where(x >= 10, x, y.half().float()))


def read_weights(path, gguf_py):
    sys.path.insert(0, str(gguf_py))
    from gguf import GGUFReader

    return {t.name: torch.from_numpy(np.array(t.data).copy()) for t in GGUFReader(str(path)).tensors}


def bert(weights, ids):
    n_embd = SHAPE["heads"] * SHAPE["head_dim"]
    config = BertConfig(vocab_size=weights["token_embd.weight"].shape[0], hidden_size=n_embd, intermediate_size=n_embd,
                        num_hidden_layers=SHAPE["layers"], num_attention_heads=SHAPE["heads"], layer_norm_eps=1e-6,
                        max_position_embeddings=weights["position_embd.weight"].shape[0], type_vocab_size=2,
                        attn_implementation="eager")
    model = BertModel(config, add_pooling_layer=False).eval()
    state = {"embeddings.word_embeddings.weight": weights["token_embd.weight"],
             "embeddings.position_embeddings.weight": weights["position_embd.weight"],
             "embeddings.token_type_embeddings.weight": weights["token_types.weight"]}
    names = {"embeddings.LayerNorm": "token_embd_norm"}
    for i in range(SHAPE["layers"]):
        names.update({f"encoder.layer.{i}.{theirs}": f"blk.{i}.{ours}" for theirs, ours in {
            "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
            "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
            "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm"}.items()})
    for theirs, ours in names.items():
        state.update({f"{theirs}.{part}": weights[f"{ours}.{part}"] for part in ("weight", "bias")})
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and all("position_ids" in m or "token_type_ids" in m for m in missing), (missing, unexpected)
    for layer in model.encoder.layer:
        layer.intermediate.intermediate_act_fn = EngineGelu()
    return model(ids, output_attentions=True).attentions


def t5encoder(weights, ids):
    n_embd = SHAPE["heads"] * SHAPE["head_dim"]
    config = T5Config(vocab_size=weights["token_embd.weight"].shape[0], d_model=n_embd, d_kv=SHAPE["head_dim"], d_ff=n_embd,
                      num_layers=SHAPE["layers"], num_heads=SHAPE["heads"], relative_attention_num_buckets=32,
                      relative_attention_max_distance=128, layer_norm_epsilon=1e-6, feed_forward_proj="relu",
                      attn_implementation="eager")
    model = T5EncoderModel(config).eval()
    state = {"shared.weight": weights["token_embd.weight"], "encoder.embed_tokens.weight": weights["token_embd.weight"],
             "encoder.final_layer_norm.weight": weights["enc.output_norm.weight"],
             "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": weights["enc.blk.0.attn_rel_b.weight"]}
    for i in range(SHAPE["layers"]):
        state.update({f"encoder.block.{i}.{theirs}.weight": weights[f"enc.blk.{i}.{ours}.weight"] for theirs, ours in {
            "layer.0.SelfAttention.q": "attn_q", "layer.0.SelfAttention.k": "attn_k", "layer.0.SelfAttention.v": "attn_v",
            "layer.0.SelfAttention.o": "attn_o", "layer.0.layer_norm": "attn_norm", "layer.1.layer_norm": "ffn_norm",
            "layer.1.DenseReluDense.wi": "ffn_up", "layer.1.DenseReluDense.wo": "ffn_down"}.items()})
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and not missing, (missing, unexpected)
    return model(ids, output_attentions=True).attentions


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attnscope", default="build/bin/attnscope")
    parser.add_argument("--gguf", default=".deps/llama.cpp/gguf-py", type=pathlib.Path)
    parser.add_argument("--flash-attn", default="off", choices=["off", "on"])
    args = parser.parse_args()
    ids = [1] + [3 + (i * 37 + i * i * 11) % 256 for i in range(149)]  # past T5's last exact bucket and its last one
    worst = 0
    for arch, run in {"bert": bert, "t5encoder": t5encoder}.items():
        with tempfile.TemporaryDirectory() as folder:
            at = pathlib.Path(folder)
            (at / "ids.json").write_text(json.dumps(ids))
            call = lambda *a: subprocess.run([args.attnscope, *map(str, a)], check=True, capture_output=True)
            call("models", "make", "--arch", arch, "--type", "f32", "--ctx", 512, "--layers", SHAPE["layers"], "--heads",
                 SHAPE["heads"], "--kv-heads", SHAPE["heads"], "--head-dim", SHAPE["head_dim"], "-o", at / "model.gguf")
            call("capture", "-m", at / "model.gguf", "--input-ids", at / "ids.json", "-n", 0, "--flash-attn", args.flash_attn,
                 "-o", at / "model.attn")
            call("export", at / "model.attn", "--to", "npy", "--padded", "-o", at / "rows.npy")
            ours = np.load(at / "rows.npy")  # (token, layer, head, column)
            with torch.no_grad():
                theirs = run(read_weights(at / "model.gguf", args.gguf), torch.tensor([ids]))
            theirs = torch.stack([a[0] for a in theirs]).permute(2, 0, 1, 3).numpy()
        assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
        difference = float(np.abs(ours - theirs).max())
        later = float(np.triu(ours.mean((1, 2)), 1).sum(1)[:-1].mean())
        print(f"{arch}: {ours.shape[0] * ours.shape[1] * ours.shape[2]} rows, largest difference {difference:.1e}; "
              f"{100 * later:.0f}% of a row is on later tokens, on average")
        worst = max(worst, difference)
    sys.exit(0 if worst <= BOUND else 1)


if __name__ == "__main__":
    main()
