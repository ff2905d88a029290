#!/usr/bin/env bash
# Builds the Python wheel into a folder (default: dist/).
#   scripts/build-wheel.sh [FOLDER [BUILD]]     BUILD: a build folder whose library and command are taken (default: build)
# The wheel carries the engine's libraries and whatever else a bare machine lacks, and the manylinux tag of the oldest glibc it runs
# with.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist}
built=$(realpath "${2:-build}")
work=$built/python
python=${PYTHON:-python3}
mkdir -p "$out" "$work"
if [ ! -x "$work/tools/bin/auditwheel" ] || ! cmp -s python/requirements-build.txt "$work/tools/installed.txt"; then
    "$python" -m venv --clear "$work/tools" || { echo "error: $python cannot make a venv; on Debian: apt-get install python3-venv" >&2; exit 2; }
    "$work/tools/bin/pip" install -q --disable-pip-version-check -r python/requirements-build.txt
    cp python/requirements-build.txt "$work/tools/installed.txt"
fi
export PATH="$work/tools/bin:$PATH"
settings=(-Cbuild-dir="$work/cmake" -Ccmake.define.ATTNSCOPE_BUILT_DIR="$built"
    -Ccmake.define.ATTNSCOPE_LLAMA_PREBUILT=ON) # that build has built llama.cpp, too
# The build's own ways: which llama.cpp, which compiler cache.
cached() { sed -n "s/^$1:[A-Z]*=//p" "$built/CMakeCache.txt"; }
for name in ATTNSCOPE_LLAMA_DIR ATTNSCOPE_LLAMA_BUILD CMAKE_CXX_COMPILER_LAUNCHER; do
    value=$(cached "$name")
    [ -z "$value" ] || settings+=("-Ccmake.define.$name=$value")
done
rm -rf "$work/wheel"
pip wheel -q --disable-pip-version-check --no-build-isolation --no-deps "${settings[@]}" -w "$work/wheel" . >"$work/wheel.log" 2>&1 ||
    { tail -60 "$work/wheel.log" >&2; echo "error: the wheel could not be built; the log is $work/wheel.log" >&2; exit 2; }
rm -f "$out"/attnscope-*.whl
auditwheel repair -w "$out" "$work"/wheel/attnscope-*.whl >>"$work/wheel.log" 2>&1 ||
    { tail -20 "$work/wheel.log" >&2; echo "error: auditwheel refused the wheel; the log is $work/wheel.log" >&2; exit 2; }
ls "$out"/attnscope-*.whl
