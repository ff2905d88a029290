"""Reads a Halo Weave capture folder. Written from the description of the format alone:

one pair a token, token_00000_meta.json and token_00000_attn.bin (raw float32, its shape in `attention_shape`, the length
of the context in `attention_context_length`); an older form has one token_00000.json a token, with
`attention: {shape, context_length, data: [...]}`. metadata.json describes the capture.

usage: halo_weave_reader.py FOLDER   prints one line a token: number, shape, context length, sum, largest row error
"""
import json
import os
import re
import sys

import numpy as np


def read_folder(folder):
    with open(os.path.join(folder, "metadata.json")) as f:
        metadata = json.load(f)
    tokens = []
    for name in sorted(os.listdir(folder)):
        pair = re.fullmatch(r"token_(\d+)_meta\.json", name)
        single = re.fullmatch(r"token_(\d+)\.json", name)
        if pair:
            with open(os.path.join(folder, name)) as f:
                meta = json.load(f)
            values = np.fromfile(os.path.join(folder, "token_%s_attn.bin" % pair.group(1)), dtype="<f4")
            shape, context = meta["attention_shape"], meta["attention_context_length"]
            number = int(pair.group(1))
        elif single:
            with open(os.path.join(folder, name)) as f:
                meta = json.load(f)
            attention = meta["attention"]
            values = np.asarray(attention["data"], dtype=np.float32)
            shape, context = attention["shape"], attention["context_length"]
            number = int(single.group(1))
        else:
            continue
        tokens.append((number, values.reshape(shape), context))
    return metadata, tokens


def main():
    metadata, tokens = read_folder(sys.argv[1])
    print("tokens", len(tokens), "stated", metadata.get("total_tokens"))
    for number, values, context in tokens:
        error = float(np.abs(values.sum(axis=-1, dtype=np.float64) - 1).max())
        print(number, *values.shape, context, "%.6f" % values.sum(dtype=np.float64), "%.1e" % error)


if __name__ == "__main__":
    main()
