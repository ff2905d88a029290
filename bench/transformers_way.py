#!/usr/bin/env python3
"""What attention costs in transformers: eager attention with output_attentions=True, against its own plain run (sdpa,
no attentions), one token at a time with a KV cache, in turns in one process. Random weights of the same shapes as
`attnscope models make --preset` makes, in bf16; nothing is fetched.

  bench/transformers_way.py [--shape qwen2.5-vl-7b|qwen2.5-0.5b|tiny] [--contexts 512,8192,16384,30000] [--json FILE]

The rows of all layers and heads are stacked on the device and copied to the host in one piece, which is kinder than a
copy per layer. Needs torch and transformers (measured with 2.11 and 5.17)."""
import argparse, json, statistics, sys, time

import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache, Qwen2Config

SHAPES = {  # as in src/engine/model_shape.cpp
    "qwen2.5-vl-7b": dict(num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4, hidden_size=3584,
                          intermediate_size=18944, vocab_size=152064),
    "qwen2.5-0.5b": dict(num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, hidden_size=896,
                         intermediate_size=4864, vocab_size=151936, tie_word_embeddings=True),
    "tiny": dict(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_size=64,
                 intermediate_size=128, vocab_size=512),
}


def make_model(shape, device, dtype):
    config = Qwen2Config(**SHAPES[shape], max_position_embeddings=32768, use_cache=True)
    with torch.device(device):  # weights are drawn where they will be used
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.to(device).eval()


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def fill(model, cache, n, device, chunk):
    """Reads n random tokens in chunks, without attentions."""
    for at in range(0, n, chunk):
        ids = torch.randint(model.config.vocab_size, (1, min(chunk, n - at)), device=device)
        model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    synchronize(device)


def turn(model, cache, tokens, attentions, device):
    """Milliseconds a token, and the rows of the last one."""
    model.set_attn_implementation("eager" if attentions else "sdpa")
    ids = torch.randint(model.config.vocab_size, (tokens, 1, 1), device=device)
    rows = None
    synchronize(device)
    start = time.perf_counter()
    for i in range(tokens):
        out = model(input_ids=ids[i], past_key_values=cache, use_cache=True, output_attentions=attentions)
        if attentions:
            rows = torch.stack(out.attentions).to("cpu")  # (layer, 1, head, 1, position)
        synchronize(device)
    return 1e3 * (time.perf_counter() - start) / tokens, rows


def quartiles(x):
    x = sorted(x)
    return {"low": x[len(x) // 4], "median": statistics.median(x), "high": x[len(x) - 1 - len(x) // 4]}


def measure(model, context, a, device):
    cache = DynamicCache(config=model.config)
    model.set_attn_implementation("sdpa")
    fill(model, cache, context, device, a.chunk)
    plain, capturing = [], []
    for i in range(a.turns + 1):  # the first round warms up
        t = {}
        for attentions in ((False, True) if i % 2 else (True, False)):
            t[attentions], rows = turn(model, cache, a.tokens, attentions, device)
            if attentions:
                check(model.config, rows, cache.get_seq_length())
        if i:
            plain.append(t[False])
            capturing.append(t[True])
    return {"context": context, "plain_ms": statistics.median(plain), "capturing_ms": statistics.median(capturing),
            "ratio": quartiles([c / p for c, p in zip(capturing, plain)])}


def check(config, rows, n):
    """What was timed must be what was asked for: rows of all layers and heads over all positions."""
    want = (config.num_hidden_layers, 1, config.num_attention_heads, 1, n)
    if tuple(rows.shape) != want:
        raise SystemExit(f"error: transformers gave rows of shape {tuple(rows.shape)}, not {want}")
    worst = (rows.float().sum(-1) - 1).abs().max().item()
    if not worst < 0.1:  # bf16 weights: the sum of thousands of them is off by per cents
        raise SystemExit(f"error: a row sums to 1 only within {worst}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shape", choices=SHAPES, default="qwen2.5-vl-7b")
    p.add_argument("--contexts", default="512,8192,16384,30000")
    p.add_argument("--turns", type=int, default=8, help="rounds of a plain and a capturing turn")
    p.add_argument("--tokens", type=int, default=4, help="tokens of a turn")
    p.add_argument("--chunk", type=int, default=1024, help="prompt tokens read at once")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--json", metavar="FILE", help="write the results there ('-': standard output)")
    a = p.parse_args()
    torch.manual_seed(1)
    # cuDNN's attention makes a plan for every length it has not seen, 1.5 ms a layer: with it the plain run, whose length grows with
    # each token, takes three times as long as without.
    torch.backends.cuda.enable_cudnn_sdp(False)
    model = make_model(a.shape, a.device, torch.bfloat16)
    name = torch.cuda.get_device_name() if a.device == "cuda" else a.device
    result = {"way": "transformers", "model": a.shape, "devices": name, "torch": torch.__version__,
              "transformers": transformers.__version__, "turns": a.turns, "tokens": a.tokens, "runs": []}
    say = sys.stderr if a.json == "-" else sys.stdout
    print(f"{a.shape}, bf16, {name}; transformers {transformers.__version__}, torch {torch.__version__}", file=say)
    print(f"{'context':>8} {'plain ms':>10} {'eager ms':>10}  ratio (quartiles)", file=say)
    with torch.inference_mode():
        for context in (int(c) for c in a.contexts.split(",")):
            try:
                run = measure(model, context, a, a.device)
            except torch.cuda.OutOfMemoryError:
                print(f"{context:>8} does not fit into the device's memory", file=say)
                break
            result["runs"].append(run)
            r = run["ratio"]
            print(f"{context:>8} {run['plain_ms']:>10.2f} {run['capturing_ms']:>10.2f}  "
                  f"{r['median']:.3f} ({r['low']:.3f}-{r['high']:.3f})", file=say, flush=True)
            if a.json and a.json != "-":  # after each length: whoever runs out of time keeps what was measured
                with open(a.json, "w") as f:
                    json.dump(result, f, indent=2)
            if a.device == "cuda":
                torch.cuda.empty_cache()
    if a.json == "-":
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
