#!/usr/bin/env python3
"""Rows of encoders against transformers in float32: a BERT and two T5 with made weights, eager attention.

  bench/encoders_vs_transformers.py [--attnscope build/bin/attnscope] [--gguf .deps/llama.cpp/gguf-py] [--flash-attn off|on]

Each model is made by `attnscope models make --type f32`, read by `attnscope capture -n 0`, and its rows are exported; the same
weights go into transformers' own BertModel and T5EncoderModel, which give their attentions. Of a T5 with a decoder 20 tokens are
written as well, and transformers' T5Model reads them: its encoder's, decoder's and cross attentions. Prints the
largest difference of any weight of any row and ends with 1 where it is above 1e-5. Needs torch, transformers and numpy; nothing is
fetched.

ggml computes GELU from a table of half precision: BERT's activation is replaced by that table here, or the second layer's rows
would differ by what the engine, not the capture, rounds."""
import argparse, contextlib, json, pathlib, sqlite3, subprocess, sys, tempfile

import numpy as np
import torch
from transformers import BertConfig, BertModel, T5Config, T5EncoderModel, T5Model

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


def t5_config(weights):
    n_embd = SHAPE["heads"] * SHAPE["head_dim"]
    return T5Config(vocab_size=weights["token_embd.weight"].shape[0], d_model=n_embd, d_kv=SHAPE["head_dim"], d_ff=n_embd,
                    num_layers=SHAPE["layers"], num_heads=SHAPE["heads"], relative_attention_num_buckets=32,
                    relative_attention_max_distance=128, layer_norm_epsilon=1e-6, feed_forward_proj="relu",
                    tie_word_embeddings=False, attn_implementation="eager")


def t5_half(weights, side, name):
    """The state of one half: transformers counts a decoder's cross attention as its second sub-layer."""
    state = {f"{side}.embed_tokens.weight": weights["token_embd.weight"],
             f"{side}.final_layer_norm.weight": weights[f"{name}.output_norm.weight"],
             f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight": weights[f"{name}.blk.0.attn_rel_b.weight"]}
    feeds = 2 if side == "decoder" else 1
    parts = {f"layer.{feeds}.layer_norm": "ffn_norm", f"layer.{feeds}.DenseReluDense.wi": "ffn_up",
             f"layer.{feeds}.DenseReluDense.wo": "ffn_down"}
    for at, theirs, ours in [(0, "SelfAttention", "attn"), (1, "EncDecAttention", "cross_attn")][:feeds]:
        parts[f"layer.{at}.layer_norm"] = f"{ours}_norm"
        parts.update({f"layer.{at}.{theirs}.{x}": f"{ours}_{x}" for x in "qkvo"})
    for i in range(SHAPE["layers"]):
        state.update({f"{side}.block.{i}.{t}.weight": weights[f"{name}.blk.{i}.{o}.weight"] for t, o in parts.items()})
    return state


def t5encoder(weights, ids):
    model = T5EncoderModel(t5_config(weights)).eval()
    state = {"shared.weight": weights["token_embd.weight"]} | t5_half(weights, "encoder", "enc")
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and not missing, (missing, unexpected)
    return model(ids, output_attentions=True).attentions


def t5(weights, ids, written):
    """Attentions of the encoder, of the decoder, of the decoder on the encoder's text."""
    model = T5Model(t5_config(weights)).eval()
    state = {"shared.weight": weights["token_embd.weight"]}
    state |= t5_half(weights, "encoder", "enc") | t5_half(weights, "decoder", "dec")
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and not missing, (missing, unexpected)
    out = model(input_ids=ids, decoder_input_ids=written, output_attentions=True)
    return out.encoder_attentions, out.decoder_attentions, out.cross_attentions


def rows_of(attentions):
    """(token, layer, head, column)"""
    return torch.stack([a[0] for a in attentions]).permute(2, 0, 1, 3).numpy()


def encoder_decoder(args, ids, at):
    """The largest difference of what a T5 reads, writes and looks at."""
    call = lambda *a: subprocess.run([args.attnscope, *map(str, a)], check=True, capture_output=True)
    call("models", "make", "--arch", "t5", "--type", "f32", "--ctx", 512, "--layers", SHAPE["layers"], "--heads",
         SHAPE["heads"], "--head-dim", SHAPE["head_dim"], "-o", at / "model.gguf")
    call("capture", "-m", at / "model.gguf", "--input-ids", at / "ids.json", "-n", 20, "--temp", 0, "--ignore-eos", "-ctk", "f32",
         "-ctv", "f32", "--flash-attn", args.flash_attn, "-o", at / "model.attn")
    call("export", at / "model.attn", "--to", "npy", "--padded", "-o", at / "rows.npy")
    ours, n, layers = np.load(at / "rows.npy"), len(ids), SHAPE["layers"]
    with contextlib.closing(sqlite3.connect(at / "model.attn")) as file:
        written = [row[0] for row in file.execute("SELECT token FROM frame ORDER BY id")][n:]
    with torch.no_grad():
        encoder, decoder, cross = map(rows_of, t5(read_weights(at / "model.gguf", args.gguf), torch.tensor([ids]),
                                                  torch.tensor([written])))
    pairs = {"encoder": (ours[:n, :layers, :, :n], encoder), "decoder": (ours[n:, layers::2, :, n:], decoder),
             "cross": (ours[n:, layers + 1::2, :, :n], cross)}
    worst = 0
    for name, (mine, theirs) in pairs.items():
        assert mine.shape == theirs.shape, (name, mine.shape, theirs.shape)
        difference = float(np.abs(mine - theirs).max())
        print(f"t5 {name}: {mine.shape[0] * layers * SHAPE['heads']} rows, largest difference {difference:.1e}")
        worst = max(worst, difference)
    return worst


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
            theirs = rows_of(theirs)
        assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
        difference = float(np.abs(ours - theirs).max())
        later = float(np.triu(ours.mean((1, 2)), 1).sum(1)[:-1].mean())
        print(f"{arch}: {ours.shape[0] * ours.shape[1] * ours.shape[2]} rows, largest difference {difference:.1e}; "
              f"{100 * later:.0f}% of a row is on later tokens, on average")
        worst = max(worst, difference)
    with tempfile.TemporaryDirectory() as folder:
        at = pathlib.Path(folder)
        (at / "ids.json").write_text(json.dumps(ids))
        worst = max(worst, encoder_decoder(args, ids, at))
    sys.exit(0 if worst <= BOUND else 1)


if __name__ == "__main__":
    main()
