#!/usr/bin/env bash
# Executes the notebooks in python/notebooks/ with the wheel of a build folder and writes their output into them.
#   scripts/run-notebooks.sh BUILD [--check] [NOTEBOOK ...]     --check: writes nothing; transformers.ipynb needs `make python-heavy` to have run
set -euo pipefail
cd "$(dirname "$0")/.."
built=$(realpath "${1:-build}")
shift || true
work=$built/python
check=()
if [ "${1:-}" = --check ]; then
    check=(--check)
    shift
fi
[ $# -gt 0 ] || set -- python/notebooks/*.ipynb
scripts/build-wheel.sh "$work/dist" "$built"
for notebook in "$@"; do
    venv=$work/venv-notebooks
    requirements=(python/requirements-notebooks.txt)
    if [ "$(basename "$notebook")" = transformers.ipynb ]; then
        venv=$work/venv-heavy
        requirements=(python/requirements-test.txt python/requirements-heavy.txt)
        [ -x "$venv/bin/python" ] || { echo "skipped $notebook: it needs torch and transformers (make python-heavy)"; continue; }
    elif ! cat "${requirements[@]}" | cmp -s - "$venv/installed.txt"; then
        "${PYTHON:-python3}" -m venv --clear "$venv"
        "$venv/bin/pip" install -q --disable-pip-version-check "${requirements[@]/#/-r}"
        cat "${requirements[@]}" >"$venv/installed.txt"
    fi
    "$venv/bin/pip" install -q --disable-pip-version-check --force-reinstall --no-deps "$work"/dist/attnscope-*.whl
    "$venv/bin/python" scripts/run-notebook.py ${check[@]+"${check[@]}"} "$notebook"
done
