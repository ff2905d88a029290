#!/usr/bin/env bash
# Builds the Python wheel into a folder (default: dist/).
#   scripts/build-wheel.sh [FOLDER [BUILD]]     BUILD: a build folder whose library and command are taken (default: build)
# The wheel carries the engine's libraries and whatever else a bare machine lacks, and the manylinux tag of the oldest glibc it runs
# with. It runs on x86-64 processors other than this one: of llama.cpp, which a build compiles for its own machine, only the CPU
# back end depends on the processor, and the wheel gets that one compiled twice, for x86-64-v3 (AVX2) and x86-64-v4 (AVX-512).
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist}
built=$(realpath "${2:-build}")
work=$built/python
python=${PYTHON:-python3}
mkdir -p "$out" "$work"
if [ ! -x "$work/tools/bin/auditwheel" ] || ! cmp -s python/requirements-build.txt "$work/tools/installed.txt"; then
    "$python" -m venv --clear "$work/tools" || { echo "error: $python cannot make a venv; on Debian: apt-get install python3-venv" >&2; exit 2; }
    "$work/tools/bin/pip" install -q --no-compile --disable-pip-version-check -r python/requirements-build.txt
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
# ATTNSCOPE_WHEEL_NATIVE=1 leaves that out, for a wheel that is only tried here.
if [ "$(uname -m)" = x86_64 ] && [ -z "${ATTNSCOPE_WHEEL_NATIVE:-}" ]; then
    engine=$(cached ATTNSCOPE_LLAMA_DIR)
    for level in v3 v4; do
        folder=$work/processors/$level
        [ -e "$folder/bin/libggml-cpu.so" ] || echo "wheel: compiling llama.cpp's CPU back end for x86-64-$level, once (26 files)"
        { cmake -G Ninja -S "$(realpath "$engine")" -B "$folder" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON \
            -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF \
            -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF -DGGML_NATIVE=OFF -DGGML_AVX512=$([ $level = v4 ] && echo ON || echo OFF) -DGGML_CCACHE=OFF \
            -DCMAKE_C_COMPILER_LAUNCHER="$(cached CMAKE_C_COMPILER_LAUNCHER)" \
            -DCMAKE_CXX_COMPILER_LAUNCHER="$(cached CMAKE_CXX_COMPILER_LAUNCHER)" &&
            cmake --build "$folder" --target ggml-cpu; } >"$work/processors-$level.log" 2>&1 ||
            { tail -40 "$work/processors-$level.log" >&2; echo "error: the CPU back end could not be compiled; the log is $work/processors-$level.log" >&2; exit 2; }
    done
    settings+=("-Ccmake.define.ATTNSCOPE_PROCESSORS=$work/processors")
fi
echo "wheel: compiling the extension and packing it"
rm -rf "$work/wheel"
pip wheel -q --disable-pip-version-check --no-build-isolation --no-deps "${settings[@]}" -w "$work/wheel" . >"$work/wheel.log" 2>&1 ||
    { tail -60 "$work/wheel.log" >&2; echo "error: the wheel could not be built; the log is $work/wheel.log" >&2; exit 2; }
rm -f "$out"/attnscope-*.whl
auditwheel repair -w "$out" "$work"/wheel/attnscope-*.whl >>"$work/wheel.log" 2>&1 ||
    { tail -20 "$work/wheel.log" >&2; echo "error: auditwheel refused the wheel; the log is $work/wheel.log" >&2; exit 2; }
wheel=$(ls "$out"/attnscope-*.whl)
# What auditwheel itself says of the file, and not newer than Debian 12's glibc.
tag=$(auditwheel show "$wheel" | tr '\n' ' ' | sed -n 's/.*platform tag: *"\([^"]*\)".*/\1/p')
minor=${tag#manylinux_2_}
minor=${minor%%_*}
case $wheel in
*-"$tag".whl) ;;
*) echo "error: auditwheel calls this wheel '$tag', its name says otherwise: $wheel" >&2; exit 2 ;;
esac
if [ "$minor" -gt 36 ]; then
    echo "error: the wheel needs glibc 2.$minor, and Debian 12 has 2.36: build it on Debian 12" >&2
    exit 2
fi
echo "$wheel: $tag, $(($(stat -c %s "$wheel") / 1000)) kB"
