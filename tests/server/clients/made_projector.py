"""Vision projectors (mmproj) of a few thousand random numbers, for models that `attnscope models make` makes.

  make(path, kind, width)     kind: "mlp" (LLaVA), "gemma3", "qwen2vl_merger"; width: of the text model's embedding
  as_qwen2vl(path, out)       a made qwen2 with qwen2vl's positions: three of a patch, and fewer of them than patches

What they say of a picture means nothing, but it is a picture's patches that the text model then has in its cache. The encoders
attend, too: a layer of them is in every kind, so that a graph with attention passes by that is no text's."""
import random
import struct

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
FIXED = {0: 1, 1: 1, 2: 2, 3: 2, U32: 4, I32: 4, F32: 4, BOOL: 1, 10: 8, 11: 8, 12: 8}
ALIGNMENT = 32


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def padded(data):
    return data + b"\0" * (-len(data) % ALIGNMENT)


class Value:
    def __init__(self, kind, of, data):
        self.kind, self.of, self.data = kind, of, data

    def bytes(self):
        one = text if self.of == STRING else (lambda v: struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<?"}[self.of], v))
        if self.kind != ARRAY:
            return struct.pack("<I", self.kind) + one(self.data)
        return struct.pack("<IIQ", ARRAY, self.of, len(self.data)) + b"".join(one(v) for v in self.data)


def value(data):
    if isinstance(data, list):
        return Value(ARRAY, value(data[0]).of, data)
    kind = {bool: BOOL, int: U32, float: F32, str: STRING}[type(data)]
    return Value(kind, kind, data)


def write(path, keys, tensors):
    """keys: {name: value}; tensors: {name: (shape, numbers)}, shape as ggml counts it, the innermost first."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys))
    for name, data in keys.items():
        head += text(name) + value(data).bytes()
    body = b""
    for name, (shape, numbers) in tensors.items():
        head += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", 0, len(body))
        body += padded(struct.pack(f"<{len(numbers)}f", *numbers))
    with open(path, "wb") as f:
        f.write(padded(head) + body)


class Weights(dict):
    def __init__(self, seed):
        super().__init__()
        self.random = random.Random(seed)

    def matrix(self, name, *shape, scale=None):
        n = 1
        for size in shape:
            n *= size
        spread = scale if scale is not None else (n / shape[-1]) ** -0.5
        self[name] = (shape, [self.random.gauss(0, spread) for _ in range(n)])

    def vector(self, name, size, around=0.0):
        self[name] = ((size,), [around + self.random.gauss(0, 0.1) for _ in range(size)])

    def linear(self, name, n_in, n_out):
        self.matrix(name + ".weight", n_in, n_out)
        self.vector(name + ".bias", n_out)

    def norm(self, name, size):
        self.vector(name + ".weight", size, 1.0)
        self.vector(name + ".bias", size)

    def layer(self, number, width, n_ff):
        block = f"v.blk.{number}."
        self.norm(block + "ln1", width)
        self.norm(block + "ln2", width)
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            self.linear(block + part, width, width)
        self.linear(block + "ffn_up", width, n_ff)
        self.linear(block + "ffn_down", n_ff, width)


def make(path, kind, width, seed=1):
    own, n_ff, n_layer = 32, 48, 2 if kind == "mlp" else 1  # LLaVA leaves its last layer out
    patch, side = (8, 32) if kind != "gemma3" else (8, 64)
    weights = Weights(seed)
    keys = {"general.architecture": "clip", "general.type": "mmproj", "clip.has_vision_encoder": True, "clip.projector_type": kind,
            "clip.use_gelu": True, "clip.vision.image_size": side, "clip.vision.patch_size": patch, "clip.vision.embedding_length": own,
            "clip.vision.feed_forward_length": n_ff, "clip.vision.block_count": n_layer, "clip.vision.projection_dim": width,
            "clip.vision.attention.head_count": 2, "clip.vision.attention.layer_norm_epsilon": 1e-6,
            "clip.vision.image_mean": [0.5, 0.5, 0.5], "clip.vision.image_std": [0.5, 0.5, 0.5]}
    weights.matrix("v.patch_embd.weight", patch, patch, 3, own)
    for number in range(n_layer):
        weights.layer(number, own, n_ff)
    if kind == "qwen2vl_merger":
        weights.matrix("v.patch_embd.weight.1", patch, patch, 3, own)
        weights.linear("mm.0", 4 * own, 4 * own)
        weights.linear("mm.2", 4 * own, width)
    else:
        weights.vector("v.patch_embd.bias", own)
        weights.matrix("v.position_embd.weight", own, (side // patch) ** 2, scale=0.5)
    if kind == "mlp":
        weights.linear("mm.0", own, width)
        weights.linear("mm.2", width, width)
    if kind == "gemma3":
        keys["clip.vision.projector.scale_factor"] = 2  # four patches become one
        weights.norm("v.post_ln", own)
        weights.vector("mm.soft_emb_norm.weight", own, 1.0)
        weights.matrix("mm.input_projection.weight", width, own)
    write(path, keys, weights)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, layout):
        values = struct.unpack_from("<" + layout, self.data, self.at)
        self.at += struct.calcsize("<" + layout)
        return values[0] if len(values) == 1 else values

    def string(self):
        length = self.take("Q")
        self.at += length
        return self.data[self.at - length:self.at].decode()

    def skip(self, kind):
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            of, n = self.take("IQ")
            for _ in range(n):
                self.skip(of)
        else:
            self.at += FIXED[kind]


def as_qwen2vl(path, out, sections=(4, 6, 6, 0)):
    """`sections`: how many pairs of a head turn with time, height and width; together half of a head."""
    with open(path, "rb") as f:
        reader = Reader(f.read())
    _, _, n_tensors, n_keys = reader.take("4sIQQ")
    keys = b""
    for _ in range(n_keys):
        name = reader.string()
        begin, kind = reader.at, reader.take("I")
        if name == "general.architecture":
            reader.string()
            keys += text(name) + value("qwen2vl").bytes()
            continue
        reader.skip(kind)
        keys += text(name.replace("qwen2.", "qwen2vl.", 1)) + reader.data[begin:reader.at]
    keys += text("qwen2vl.rope.dimension_sections") + Value(ARRAY, I32, list(sections)).bytes()
    infos = reader.at
    for _ in range(n_tensors):
        reader.string()
        n_dims = reader.take("I")
        reader.at += 8 * n_dims + 12
    head = struct.pack("<4sIQQ", b"GGUF", 3, n_tensors, n_keys + 1) + keys + reader.data[infos:reader.at]
    with open(out, "wb") as f:
        f.write(padded(head) + reader.data[reader.at + -reader.at % ALIGNMENT:])
