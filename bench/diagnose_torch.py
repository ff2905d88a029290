#!/usr/bin/env python3
"""Captures of real PyTorch runs, spoiled in the ways in which people spoil them, and what `diagnose` says of each.

usage: diagnose_torch.py ATTNSCOPE [--write]   --write: also the table between the markers of docs/diagnose.md

Needs torch, transformers and numpy (python/requirements-heavy.txt). The models are small, made here and have random weights, their
queries made larger so that rows have peaks; every capture is of the program's own forward pass: output_attentions, hooks, caches.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

BEGIN, END = "<!-- made by bench/diagnose_torch.py: begin -->", "<!-- end -->"
N = 48  # tokens of a prompt
torch.set_grad_enabled(False)


def sharpened(model, factor=1.2):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("q_proj.weight", "query.weight")):
                p.mul_(factor)
            elif name.endswith("c_attn.weight"):
                p[:, : p.shape[1] // 3].mul_(factor)
    return model.eval()


def llama(**more):
    torch.manual_seed(7)
    config = LlamaConfig(hidden_size=128, intermediate_size=128, num_hidden_layers=4, num_attention_heads=8,
                         num_key_value_heads=4, vocab_size=256, max_position_embeddings=256, initializer_range=0.15,
                         attn_implementation="eager", **more)
    return sharpened(LlamaForCausalLM(config))


def gpt2(**more):
    torch.manual_seed(8)
    config = GPT2Config(n_embd=128, n_layer=4, n_head=8, vocab_size=256, n_positions=256, initializer_range=0.15,
                        attn_implementation="eager", **more)
    return sharpened(GPT2LMHeadModel(config))


def ids(n=N, seed=1):
    return torch.randint(3, 256, (1, n), generator=torch.Generator().manual_seed(seed))


def stacked(attentions, row=0):  # (layer, head, query, key)
    return np.stack([a[row].float().numpy() for a in attentions])


def steps(model, n=24, change=None):  # a token at a time, as generate() does: one row of all layers and heads each
    cache, rows, token = None, [], ids(1)
    for i in range(n):
        out = model(token, past_key_values=cache, use_cache=True, output_attentions=True)
        cache = out.past_key_values
        rows.append(np.stack([a[0, :, -1].float().numpy() for a in out.attentions]))
        token = out.logits[:, -1:].argmax(-1) if change is None else ids(1, seed=i + 2)
    return rows  # of (layer, head, key), each one longer


def heads_of(model, tokens):
    """(query, key) of every layer's heads before the position's rotation, from the projections themselves."""
    got = []
    hooks = []
    for layer in model.model.layers:
        a = layer.self_attn
        for p in (a.q_proj, a.k_proj):
            hooks.append(p.register_forward_hook(lambda m, i, out: got.append(out.detach())))
    with torch.no_grad():
        model(tokens)
    for h in hooks:
        h.remove()
    split = lambda x: x[0].view(x.shape[1], -1, 16).transpose(0, 1)  # (head, token, 16)
    out = []
    for q, k in zip(got[::2], got[1::2]):
        q, k = split(q), split(k)
        out.append((q, k.repeat_interleave(q.shape[0] // k.shape[0], 0)))
    return out


def evicted(n=30, sinks=4, window=12):
    """A StreamingLLM cache: the first positions and the last ones are kept; a row's values go back to their positions."""
    model = llama()
    every = heads_of(model, ids(n))
    rows = np.zeros((n, len(every), 8, n), np.float32)  # (token, layer, head, position)
    for t in range(n):
        kept = sorted(set(range(min(sinks, t + 1))) | set(range(max(0, t + 1 - window), t + 1)))
        for layer, (q, k) in enumerate(every):
            w = torch.softmax(q[:, t : t + 1] @ k[:, kept].transpose(1, 2) / 4, -1)[:, 0]
            rows[t, layer][:, kept] = w.numpy()
    return rows


def one_buffer():
    """Layers that all were given the same buffer to write into, kept by reference: all show the last."""
    model, buffer, kept = llama(), torch.empty(1, 8, N, N), []
    with torch.no_grad():
        out = model(ids(), output_attentions=True)
    for a in out.attentions:
        buffer.copy_(a)
        kept.append(buffer)
    return stacked(kept)


def static_cache():
    """Rows as wide as a static cache, zeros where nothing is written yet."""
    rows = steps(llama())
    out = np.zeros((len(rows), *rows[0].shape[:2], 64), np.float32)
    for i, row in enumerate(rows):
        out[i, :, :, : row.shape[-1]] = row
    return out


def padded_left():
    model, pad = llama(), 9
    mask = torch.ones(1, N, dtype=torch.long)
    mask[:, :pad] = 0
    with torch.no_grad():
        return stacked(model(ids(), attention_mask=mask, output_attentions=True).attentions)


def in_half():
    """Queries so large that scores overflow float16: the mask added to them gives NaN."""
    every = heads_of(sharpened(llama(), 4000.0), ids())
    mask = torch.full((N, N), float("-inf"), dtype=torch.float16).triu(1)
    return np.stack([torch.softmax((q.half() @ k.half().transpose(1, 2)) + mask, -1).float().numpy() for q, k in every])


def forward(model, n=N):
    with torch.no_grad():
        return stacked(model(ids(n), output_attentions=True).attentions)


def in_training(model):
    model.train()
    torch.manual_seed(3)
    return forward(model)


def encoder():
    torch.manual_seed(9)
    config = BertConfig(hidden_size=128, num_hidden_layers=4, num_attention_heads=8, intermediate_size=128, vocab_size=256,
                        initializer_range=0.15, attn_implementation="eager")
    return forward(sharpened(BertModel(config)))


def unmasked():
    return np.stack([torch.softmax(q @ k.transpose(1, 2) / 4, -1).numpy() for q, k in heads_of(llama(), ids())])


def before_softmax():
    mask = torch.full((N, N), torch.finfo(torch.float32).min).triu(1)
    return np.stack([(q @ k.transpose(1, 2) / 4 + mask).numpy() for q, k in heads_of(llama(), ids())])


CASES = [  # what it is, the causes that are right, how it comes about
    ("Llama, eager, a prompt", {"clean"}, lambda: forward(llama())),
    ("generate() with a growing cache", {"clean"}, lambda: steps(llama())),
    ("GPT-2 left in train mode (attn_pdrop 0.1)", {"dropout"}, lambda: in_training(gpt2(attn_pdrop=0.1))),
    ("Llama left in train mode (attention_dropout 0.2)", {"dropout"}, lambda: in_training(llama(attention_dropout=0.2))),
    ("weights made again without the causal mask", {"not-causal"}, unmasked),
    ("BERT, an encoder", {"not-causal"}, encoder),
    ("a batch padded on the left", {"padding-queries"}, padded_left),
    ("Llama in bfloat16", {"clean", "quantised"}, lambda: forward(llama().bfloat16())),
    ("scores in float16, too large", {"half-overflow"}, in_half),
    ("StreamingLLM cache, values at their positions", {"evicted"}, evicted),
    ("one buffer for all layers, kept by reference", {"aliasing"}, one_buffer),
    ("static cache, its whole width", {"padding"}, static_cache),
    ("scores with a mask of finfo.min, before the softmax", {"raw-scores"}, before_softmax),
]


def main():
    binary, table, right = sys.argv[1], [], 0
    with tempfile.TemporaryDirectory() as folder:
        for i, (what, wanted, make) in enumerate(CASES):
            made = make()
            path = pathlib.Path(folder) / ("%02d.np%s" % (i, "z" if isinstance(made, list) else "y"))
            np.savez(path, *made) if isinstance(made, list) else np.save(path, made)
            ran = subprocess.run([binary, "diagnose", str(path), "--json"], capture_output=True, text=True)
            found = json.loads(ran.stdout) if ran.returncode != 2 else {}
            causes = [f["cause"] for f in found.get("findings", [])] or [ran.stderr.strip()[:80]]
            good = set(causes) <= wanted
            right += good
            table.append("| %s | %s | %s |" % (what, ", ".join(causes), "right" if good else "**wrong**"))
    print("\n".join(table))
    print("%d of %d right (torch %s)" % (right, len(CASES), torch.__version__))
    if "--write" in sys.argv:
        page = pathlib.Path(__file__).resolve().parent.parent / "docs" / "diagnose.md"
        text = page.read_text()
        made = BEGIN + "\n| PyTorch run | named | |\n|---|---|---|\n" + "\n".join(table) + "\n" + END
        page.write_text(text[: text.index(BEGIN)] + made + text[text.index(END, text.index(BEGIN)) + len(END):])
    sys.exit(0 if right == len(CASES) else 1)


if __name__ == "__main__":
    main()
