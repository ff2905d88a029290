#!/usr/bin/env bash
# Builds the wheel of a build folder, installs it into an empty environment and runs python/tests against it.
#   scripts/test-python.sh BUILD [--built] [--heavy] [arguments of pytest]
# --built: with the wheel that lies there already.
# --heavy: the tests that need torch, transformers, TransformerLens, BertViz and CircuitsVis (5 GB of packages) instead.
set -euo pipefail
cd "$(dirname "$0")/.."
built=$(realpath "${1:-build}")
shift || true
work=$built/python
requirements=(python/requirements-test.txt)
venv=$work/venv
select="not heavy"
workers=(-n 2) # most tests wait for a process or compute on one core
if [ "${1:-}" = --built ]; then
    shift
else
    scripts/build-wheel.sh "$work/dist" "$built"
fi
if [ "${1:-}" = --heavy ]; then
    shift
    requirements+=(python/requirements-heavy.txt)
    venv=$work/venv-heavy
    select=heavy
    workers=()
fi
if ! cat "${requirements[@]}" | cmp -s - "$venv/installed.txt"; then
    "${PYTHON:-python3}" -m venv --clear "$venv"
    "$venv/bin/pip" install -q --no-compile --disable-pip-version-check "${requirements[@]/#/-r}"
    cat "${requirements[@]}" >"$venv/installed.txt"
fi
"$venv/bin/pip" install -q --disable-pip-version-check --force-reinstall --no-deps "$work"/dist/attnscope-*.whl
export ATTNSCOPE_MADE_RECORDING=$built/bin/made_recording # makes what a real model takes long to write
export ATTNSCOPE_ATTACH_MODULE=$built/lib/libattach_host_module.so # a llama.cpp that Python loads (tests/attach/host.cpp)
[ -e "$ATTNSCOPE_ATTACH_MODULE" ] || unset ATTNSCOPE_ATTACH_MODULE # a build with sanitizers has none
# From elsewhere, so that nothing of the tree can be imported.
tests=$PWD/python/tests
config=$PWD/pyproject.toml
cd "$work"
exec "$venv/bin/pytest" -c "$config" --rootdir "$tests" -m "$select" ${workers[@]+"${workers[@]}"} "$tests" "$@"
