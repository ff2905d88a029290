#!/bin/sh
# A part of the table of architectures, made again: table.sh ARCH_MODELS ARCHS_TABLE DOCUMENT. One of each kind of attention: plain,
# windows, sinks, latent, sparse, borrowed keys, recurrent beside it, an encoder, one with a bias, diffusion, and what is refused.
set -e
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$1" "$folder" llama gemma3 gpt-oss deepseek2 deepseek32 gemma3n lfm2 bloom bert t5 dream minimax-m3 >/dev/null 2>&1
"$2" "$folder" --check "$3"
