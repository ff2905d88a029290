#!/usr/bin/python3
"""Writes the seeds of the importers' fuzzers into the current directory: captures that are right, wrong in the
ways that `attnscope diagnose` knows, and files that claim what they do not hold.

usage: cd tests/fuzz/corpus && ../seeds.py"""
import io, json, os, struct, zipfile
import numpy as np
rng = np.random.default_rng(7)
def soft(x): e = np.exp(x - x.max(-1, keepdims=True)); return (e / e.sum(-1, keepdims=True)).astype(np.float32)
def rows(*shape): return soft(rng.standard_normal(shape).astype(np.float32) * 2)
def w(name, data):
    os.makedirs(os.path.dirname(name), exist_ok=True)
    open(name, "wb").write(data)
def npy(a, version=None):
    b = io.BytesIO(); np.lib.format.write_array(b, a, version); return b.getvalue()
clean = rows(3, 2, 2, 12)
aliased = clean.copy(); aliased[:, :] = clean[:, -1:]
stale = clean.copy(); stale[2] = stale[1]
scores = (rng.standard_normal((3, 2, 2, 12)) * 3).astype(np.float32)
masked = scores.copy(); masked[..., 9:] = -np.inf
padded = np.zeros((3, 2, 2, 12), np.float32)
for t in range(3): padded[t, ..., :7 + t] = rows(2, 2, 7 + t)
half = clean.copy(); half[1, 0, 0, 3] = 65504; half[2, 1, 1] = np.nan
torn = clean.copy(); torn[1, 1] = scores[1, 1]
heads = np.repeat(rows(3, 2, 1, 12), 2, axis=2)
exchanged = np.ascontiguousarray(clean.swapaxes(2, 3))
for name, a in (("aliased", aliased), ("stale", stale), ("scores", scores), ("masked", masked), ("padded", padded), ("half-limit", half),
                ("torn", torn), ("repeated-heads", heads), ("zeros", np.zeros_like(clean)), ("exchanged", exchanged)):
    w("import_raw/" + name, bytes(a.shape) + a.tobytes())
w("import_raw/three-axes", bytes((0, 4, 4, 16)) + rows(4, 4, 16).tobytes())
w("import_raw/ends-early", bytes(clean.shape) + clean.tobytes()[:-20])
w("import_raw/one-row", bytes((0, 1, 1, 9)) + rows(9).tobytes())

for name, a, v in (("version-2", clean, (2, 0)), ("version-3", clean, (3, 0)), ("big-endian", clean.astype(">f4"), None),
                   ("whole-numbers", (clean * 9).astype(np.int32), None), ("five-axes", clean[None], None), ("one-axis", clean.ravel()[:9], None),
                   ("no-elements", clean[:0], None), ("half-fortran", np.asfortranarray(clean.astype(np.float16)), None),
                   ("scores", masked, None), ("aliased", aliased, None), ("records", np.zeros(3, dtype=[("a", "<f4"), ("b", "<f8")]), None)):
    w("import_npy/" + name, npy(a, v))
w("import_npy/ends-early", npy(clean)[:-30])
w("import_npy/long-header", b"\x93NUMPY\x02\x00" + struct.pack("<I", 0xfffffff0) + b"{'descr': '<f4', ")
w("import_npy/huge-shape", b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + (b"{'descr': '<f4', 'fortran_order': True, 'shape': (99999999999, 99999999, 9, 9), }".ljust(117) + b"\n"))

def npz(members, how=zipfile.ZIP_DEFLATED):
    b = io.BytesIO()
    with zipfile.ZipFile(b, "w", how) as z:
        for name, data in members: z.writestr(zipfile.ZipInfo(name), data, how)
    return b.getvalue()
one = npy(clean)
w("import_npz/several", npz([("attn_%d.npy" % i, npy(rows(2, 2, 6 + i))) for i in (2, 10, 9)]))
w("import_npz/beside-others", npz([("positions.npy", npy(np.arange(12, dtype=np.int64))), ("attn.npy", one), ("note.txt", b"words")]))
w("import_npz/fortran", npz([("x.npy", npy(np.asfortranarray(clean)))]))
w("import_npz/none", npz([]))
w("import_npz/not-an-array", npz([("x.npy", b"no array")], zipfile.ZIP_STORED))
w("import_npz/bzip2", npz([("x.npy", one)], zipfile.ZIP_BZIP2))
w("import_npz/ends-early", npz([("x.npy", one)])[:-70])
bomb = npy(np.zeros((1, 1, 1, 1), np.float32))[:128].replace(b"(1, 1, 1, 1)", b"(9, 9, 9, 999)")
w("import_npz/claims-more", npz([("x.npy", bomb + bytes(5000))]))

def st(tensors, data, extra=b""):
    h = json.dumps(tensors).encode(); return struct.pack("<Q", len(h)) + h + data + extra
f = lambda a, b, e, d="F32": {"dtype": d, "shape": list(a.shape), "data_offsets": [b, e]}
n = clean.nbytes
w("import_safetensors/several", st({"__metadata__": {"format": "pt"}, "attn.1": f(clean, 0, n), "attn.0": f(aliased, n, 2 * n)}, clean.tobytes() + aliased.tobytes()))
w("import_safetensors/f64", st({"x": f(clean.astype(np.float64), 0, 2 * n, "F64")}, clean.astype(np.float64).tobytes()))
w("import_safetensors/offsets-beyond", st({"x": f(clean, 0, n + 400)}, clean.tobytes()))
w("import_safetensors/offsets-backwards", st({"x": f(clean, n, 0)}, clean.tobytes()))
w("import_safetensors/overlapping", st({"x": f(clean, 0, n), "y": f(clean, 4, n + 4)}, clean.tobytes(), bytes(4)))
w("import_safetensors/other-types", st({"x": f(clean, 0, n, "I32"), "y": f(clean, 0, n // 4, "BOOL")}, clean.tobytes()))
w("import_safetensors/huge-shape", st({"x": {"dtype": "F32", "shape": [2**62, 2**62, 4], "data_offsets": [0, 16]}}, bytes(16)))
w("import_safetensors/no-shape", st({"x": {"dtype": "F32", "data_offsets": [0, 16]}}, bytes(16)))
w("import_safetensors/header-beyond", struct.pack("<Q", 2**63) + b"{}")

def hw(meta, token, numbers): return json.dumps(meta).encode() + b"\0\0" + json.dumps(token).encode() + b"\0\0" + numbers
s = lambda a: {"attention_shape": list(a.shape), "attention_context_length": a.shape[-1]}
model = {"num_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_context_length": 64, "model_name": "m"}
c = clean[0]
w("import_halo_weave/nested-model", hw({"model": model, "total_tokens": 2}, {**s(c), "token_id": 5, "text": "a"}, c.tobytes()))
w("import_halo_weave/labelled", hw({**model, "attnscope_labels": ["aliasing: 2 of 2 tokens affected"]}, {**s(c[:1]), "attnscope_kept_as": "last layer"}, c[:1].tobytes()))
w("import_halo_weave/padded", hw(model, {"attention_shape": [2, 2, 12], "attention_context_length": 7}, padded[0].tobytes()))
w("import_halo_weave/aliased", hw(model, s(c), aliased[0].tobytes()))
w("import_halo_weave/scores", hw(model, s(c), masked[0].tobytes()))
w("import_halo_weave/half-written", hw(model, s(c), c.tobytes()[:-50]))
w("import_halo_weave/four-axes", hw(model, {"attention_shape": [1, 2, 2, 12]}, c.tobytes()))
w("import_halo_weave/huge-numbers", hw({"num_layers": 1e308, "max_context_length": 2**63}, {"attention_shape": [2**31, 2**31, 2**31], "attention_context_length": -1}, c.tobytes()))
w("import_halo_weave/not-json", b"{\"a\": [[[[\0\0{\"attention_shape\": [\0\0" + c.tobytes())
w("import_halo_weave/empty", b"\0\0\0\0")

old = lambda a, **more: json.dumps({"token_id": 5, "text": "a", "attention": {"shape": list(a.shape), "context_length": a.shape[-1], "data": [round(float(x), 4) for x in a.ravel()]}, **more}).encode()
w("import_halo_weave_json/aliased", old(aliased[0]))
w("import_halo_weave_json/scores", old(scores[0]))
w("import_halo_weave_json/one-row", old(rows(9)))
w("import_halo_weave_json/extra-keys", old(c[:1], position=3, attention_context_length=12, other={"shape": [9], "data": ["x"]}))
w("import_halo_weave_json/too-few", old(c).replace(b"[2, 2, 12]", b"[2, 2, 13]"))
w("import_halo_weave_json/data-first", b'{"attention": {"data": [0.5, 0.5], "shape": [1, 1, 2]}}')
w("import_halo_weave_json/twice", b'{"attention": {"shape": [1, 1, 2], "data": [0.5, 0.5]}, "attention": {"shape": [1, 1, 1], "data": [1]}}')
w("import_halo_weave_json/large-numbers", b'{"attention": {"shape": [1, 1, 3], "data": [1e999, -1e999, 1e-999], "context_length": 99999999999999999999}}')
w("import_halo_weave_json/deep", b'{"attention": {"data": ' + b"[" * 40 + b"1" + b"]" * 40 + b"}}")
w("import_halo_weave_json/words", b'{"attention": {"shape": [1, 1, 2], "data": ["NaN", NaN]}}')

# types and axes as import_memory.cpp numbers them
def memory(arrays, axes=0):
    head, body = bytes([len(arrays) - 1, axes]), b""
    for kind, parts, a in arrays:
        head += bytes([kind, parts, a.ndim, *a.shape])
        body += a.tobytes()
    return head + body
square = np.tril(rows(2, 2, 12, 12)); square /= square.sum(-1, keepdims=True)
w("import_memory/tokens", memory([(0, 0, clean)], 4))
w("import_memory/four-parts", memory([(0, 3, clean)]))
w("import_memory/square", memory([(0, 1, square.astype(np.float32))]))
w("import_memory/square-stated", memory([(3, 0, square.astype(np.float64))], 5))
w("import_memory/layers", memory([(0, 0, square[0].astype(np.float32)), (0, 0, square[1].astype(np.float32))]))
w("import_memory/half", memory([(1, 0, clean.astype(np.float16))]))
w("import_memory/bytes", memory([(5, 0, (clean * 255).astype(np.uint8))]))
w("import_memory/empty", memory([(0, 0, clean[:0])]))
w("import_memory/ends-early", memory([(0, 0, clean)])[:-40])
w("import_memory/more-than-bytes", memory([(0, 0, clean)])[:2] + bytes([0, 0, 4, 252, 252, 9, 9]) + clean.tobytes())

def fields(body, name): w("server_fields/" + name, json.dumps(body).encode())
attention = {"rows": True, "mean": True, "top_k": 4, "layers": [0, 1], "heads": [0], "spans": [{"from": 0, "to": 3}, [1, 2]], "format": "f16", "flow": "latest"}
sampler = {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "typical_p": 1, "repeat_penalty": 1.1, "repeat_last_n": 64, "seed": 3,
           "presence_penalty": 0.1, "frequency_penalty": 0.1, "mirostat": 2, "mirostat_tau": 5, "mirostat_eta": 0.1,
           "dry_multiplier": 0.8, "dry_base": 1.75, "dry_allowed_length": 2, "dry_sequence_breakers": ["\n", ":"], "xtc_probability": 0.1, "xtc_threshold": 0.1}
fields({"prompt": "Once", "max_length": 8, "max_context_length": 128, "rep_pen": 1.1, "rep_pen_range": 64, "stop_sequence": ["x"], "genkey": "k", "trim_stop": True,
           "sampler_order": [6, 0, 1, 3, 4, 2, 5], "logit_bias": {"5": -3}, "banned_tokens": ["a"], "output_attentions": True, "attention": attention, **sampler}, "kobold")
fields({"input_ids": [1, 5, 6], "max_length": 2, "logprobs": False, "images": [], "memory": "m"}, "kobold-ids")
fields({"prompt": "x", "max_length": 2, "logit_bias": [[5, -1.5], ["x", False]], "grammar": "", "samplers": ["top_k", "temperature"], "attention": attention}, "kobold-biases")
fields({"prompt": "x", "grammar": "root ::= \"a\" | \"b\"", "max_length": 2}, "grammar")
