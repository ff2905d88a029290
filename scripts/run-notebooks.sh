#!/usr/bin/env bash
# Executes the notebooks in python/notebooks/ with the wheel of a build folder and writes their output into them.
#   scripts/run-notebooks.sh BUILD [--built] [--check] [NOTEBOOK ...]
# --built: with the wheel that lies there already. --check: writes nothing. transformers.ipynb needs `make python-heavy` to have run.
set -euo pipefail
cd "$(dirname "$0")/.."
built=$(realpath "${1:-build}")
shift || true
work=$built/python
if [ "${1:-}" = --built ]; then
    shift
else
    scripts/build-wheel.sh "$work/dist" "$built"
fi
check=()
if [ "${1:-}" = --check ]; then
    check=(--check)
    shift
fi
[ $# -gt 0 ] || set -- python/notebooks/*.ipynb
# execute VENV NOTEBOOK ...
execute() {
    local venv=$1
    shift
    "$venv/bin/pip" install -q --disable-pip-version-check --force-reinstall --no-deps "$work"/dist/attnscope-*.whl
    "$venv/bin/python" scripts/run-notebook.py ${check[@]+"${check[@]}"} "$@"
}
light=()
heavy=()
for notebook in "$@"; do
    if [ "$(basename "$notebook")" = transformers.ipynb ]; then heavy+=("$notebook"); else light+=("$notebook"); fi
done
if [ ${#light[@]} -gt 0 ]; then
    venv=$work/venv-notebooks
    if ! cmp -s python/requirements-notebooks.txt "$venv/installed.txt"; then
        "${PYTHON:-python3}" -m venv --clear "$venv"
        "$venv/bin/pip" install -q --no-compile --disable-pip-version-check -r python/requirements-notebooks.txt
        cp python/requirements-notebooks.txt "$venv/installed.txt"
    fi
    execute "$venv" "${light[@]}"
fi
if [ ${#heavy[@]} -gt 0 ]; then
    if [ -x "$work/venv-heavy/bin/python" ]; then
        execute "$work/venv-heavy" "${heavy[@]}"
    else
        echo "skipped ${heavy[*]}: it needs torch and transformers (make python-heavy)"
    fi
fi
