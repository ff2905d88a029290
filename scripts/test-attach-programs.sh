#!/usr/bin/env bash
# Runs programs from npm, PyPI and, where this is root, Debian under `attnscope attach`, pinned by hashes, and checks what was
# recorded. Not among the tests of `make test`: it fetches some hundred MB.
#   scripts/test-attach-programs.sh [BUILD [NAME...]]       names: tests/attach/programs/run.py
set -euo pipefail
cd "$(dirname "$0")/.."
built=$(realpath "${1:-build}")
shift || true
"$built/bin/attnscope" models get smollm2 >&2
exec python3 tests/attach/programs/run.py --attnscope "$built/bin/attnscope" --libraries .deps/llama-cpu/bin \
    --model "${XDG_CACHE_HOME:-$HOME/.cache}/attnscope/models/SmolLM2-135M-Instruct.Q4_1.gguf" \
    --work "$built/attach-programs" "$@"
