#!/usr/bin/env python3
"""Writes src/gguf/gguf_architectures.inc from llama.cpp's sources.

    scripts/list-architectures.py .deps/llama.cpp > src/gguf/gguf_architectures.inc

Run it when the pinned llama.cpp changes; a test compares the table's names with the pinned sources.
Every row is an architecture that llama.cpp can build, what it is for, and which equalities its graph asserts:
llama.cpp aborts the process where they do not hold, so they are checked beforehand.
"""
import pathlib
import re
import sys

KINDS = {
    "embedding": "bert modern-bert nomic-bert nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert "
                 "gemma-embedding llama-embed t5encoder",
    "encoder_decoder": "t5",
    "diffusion": "dream llada llada-moe rnd1",
    "projector": "clip",
    "audio": "wavtokenizer-dec qwen3tts pockettts",
    "draft": "eagle3 dflash gemma4-assistant",
    "recurrent": "mamba mamba2 rwkv6 rwkv6qwen2 rwkv7 arwkv7",
}
# Takes RoPE's size for the head size where it creates tensors, and the keys' where it builds the graph.
ONE_HEAD_SIZE = {"gpt-oss"}
# Sizes of recurrent parts that llama.cpp divides by, where an architecture has them.
RECURRENT_SIZES = {
    "LLM_KV_SSM_CONV_KERNEL": "ssm.conv_kernel", "LLM_KV_SSM_INNER_SIZE": "ssm.inner_size",
    "LLM_KV_SSM_STATE_SIZE": "ssm.state_size", "LLM_KV_SSM_TIME_STEP_RANK": "ssm.time_step_rank",
    "LLM_KV_SHORTCONV_L_CACHE": "shortconv.l_cache", "LLM_KV_WKV_HEAD_SIZE": "wkv.head_size",
}


def main():
    source = pathlib.Path(sys.argv[1]) / "src"
    names = dict(re.findall(r'\{ (LLM_ARCH_\w+), +"([^"]+)"', (source / "llama-arch.cpp").read_text()))
    mapping = (source / "llama-model.cpp").read_text().split("llama_model_mapping", 1)[1].split("\n}\n", 1)[0]
    classes, waiting = {}, []
    for line in mapping.splitlines():
        if case := re.search(r"case (LLM_ARCH_\w+):", line):
            waiting.append(case[1])
        if made := re.search(r"new (llama_model_\w+)\(", line):
            classes.update({arch: made[1] for arch in waiting})
            waiting = []
    files = {path: path.read_text() for path in sorted((source / "models").glob("*.cpp"))}
    kinds = {name: kind for kind, listed in KINDS.items() for name in listed.split()}

    def graph_source(cls):
        text = "".join(text for text in files.values() if f"{cls}::build_arch_graph" in text)
        base = re.search(r"make_unique<(llama_model_\w+)::graph", text)
        return text + (graph_source(base[1]) if base and base[1] != cls else "")

    bases = dict(re.findall(r"struct (llama_model_\w+) *: *public (llama_model_\w+)", (source / "models/models.h").read_text()))

    def hparams_source(cls):
        for text in files.values():
            if found := re.search(rf"void {cls}::load_arch_hparams\(.*?\n}}\n", text, re.S):
                return found[0]
        return hparams_source(bases[cls]) if cls in bases else ""

    print("// Written by scripts/list-architectures.py from llama.cpp's sources; do not edit.")
    print("// name, kind, equal_heads, rope_whole_head, heads_fill_embd, windows, latent, recurrent_sizes")
    for arch, name in names.items():
        if arch not in classes:
            continue
        text = re.sub(r"//.*", "", graph_source(classes[arch]))
        flags = [
            name in ONE_HEAD_SIZE or bool(re.search(r"GGML_ASSERT\(n_embd_head == hparams.n_embd_head_[kv]\(\)\);", text)),
            name in ONE_HEAD_SIZE or "GGML_ASSERT(n_embd_head == n_rot);" in text,
            bool(re.search(r"create_tensor_qkv\(layer, i, n_embd, n_embd,|ATTN_QKV, \"weight\", i\), \{n_embd, n_embd \+", text)),
            "load_swa_pattern(" in text,
            "LLM_KV_ATTENTION_KV_LORA_RANK," in hparams_source(classes[arch]),
        ]
        sizes = " ".join(key for name_of, key in RECURRENT_SIZES.items() if f"{name_of}," in hparams_source(classes[arch]))
        row = ", ".join(str(flag).lower() for flag in flags)
        print(f'{{"{name}", ArchKind::{kinds.pop(name, "text")}, {row}, "{sizes}"}},')
    if kinds:
        sys.exit(f"error: no such architectures: {', '.join(kinds)}")


main()
