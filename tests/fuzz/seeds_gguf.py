#!/usr/bin/python3
"""Writes seeds of the GGUF check: of each model given all its keys, its vocabulary cut to four tokens, and of its tensors the
embedding, the last norm and a norm a layer. Models of every architecture come from `build/bin/arch_models FOLDER`.

usage: cd tests/fuzz/corpus/gguf_check && ../../seeds_gguf.py MODEL.gguf..."""
import os, struct, sys

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9
N_TOKENS = 4


class Reader:
    def __init__(self, data): self.data, self.at = data, 0
    def take(self, n): self.at += n; return self.data[self.at - n:self.at]
    def number(self, form): return struct.unpack("<" + form, self.take(struct.calcsize(form)))[0]
    def string(self): return self.take(self.number("Q"))
    def value(self, kind):
        """The bytes of one value, arrays of the vocabulary cut short."""
        if kind == STRING:
            s = self.string()
            return struct.pack("<Q", len(s)) + s
        if kind != ARRAY: return self.take(SIZES[kind])
        of, n = self.number("I"), self.number("Q")
        values = [self.value(of) for _ in range(n)]
        values = values[:N_TOKENS] if n > 100 else values
        return struct.pack("<IQ", of, len(values)) + b"".join(values)


def seed(data):
    r = Reader(data)
    assert r.take(4) == b"GGUF"
    version, n_tensors, n_keys = r.number("I"), r.number("Q"), r.number("Q")
    keys, embd, n_layer = [], 8, 0
    for _ in range(n_keys):
        name, kind = r.string(), r.number("I")
        value = r.value(kind)
        if name.count(b".") == 1 and name.endswith(b".embedding_length") and value.strip(b"\0"): embd = struct.unpack("<I", value)[0]
        if name.count(b".") == 1 and name.endswith(b".block_count"): n_layer = struct.unpack("<I", value)[0]
        keys.append(struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value)
    wanted = [(b"token_embd.weight", (embd, N_TOKENS)), (b"output_norm.weight", (embd,))]
    wanted += [(b"blk.%d.attn_norm.weight" % i, (embd,)) for i in range(n_layer)]
    tensors, size = b"", 0
    for name, extents in wanted:
        tensors += struct.pack("<Q", len(name)) + name + struct.pack("<I", len(extents)) + b"".join(struct.pack("<Q", e) for e in extents)
        tensors += struct.pack("<IQ", 0, size)  # float32
        n = 4
        for e in extents: n *= e
        size += (n + 31) // 32 * 32
    head = b"GGUF" + struct.pack("<IQQ", version, len(wanted), n_keys) + b"".join(keys) + tensors
    return head + bytes(-len(head) % 32) + bytes(size)


for path in sys.argv[1:]:
    name = os.path.basename(path).removesuffix(".gguf")
    with open(path, "rb") as f: data = f.read()
    with open("arch-" + name, "wb") as f: f.write(seed(data))
