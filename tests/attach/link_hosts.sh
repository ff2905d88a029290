#!/bin/sh
# Links hosts with llama.cpp inside, as programs do that are one file: COMPILER LLAMA_BUILD OUT HOST_OBJECT [OTHER_HOST_OBJECT...]
#   one.so        KoboldCPP's kind: one shared object that Python loads
#   bsymbolic.so  the same, its calls bound inside
#   hidden.so     the same, llama.cpp's names for nobody else; their table is left
#   static        an executable that holds llama.cpp
#   stripped      the same without its table of names; stripped-NAME of each NAME_host.cpp
# Without the object files of llama.cpp's build (libraries alone were given) there is nothing to link, and no host.
set -eu
compiler=$1 build=$2 out=$3 host=$4
shift 4
mkdir -p "$out"
rm -f "$out"/*
objects=$(find "$build/src/CMakeFiles/llama.dir" "$build/ggml/src/CMakeFiles" "$build/ggml/src/ggml-rpc/CMakeFiles" \
    "$build/vendor/hash/CMakeFiles" -name '*.o' 2>/dev/null | sort) || true
if [ -n "$objects" ]; then
    printf '{ global: main; local: *; };\n' >"$out/hidden.map"
    # where the machine has RDMA, llama.cpp was built for it
    libraries=
    # shellcheck disable=SC2086
    if nm $objects 2>/dev/null | grep -q 'U ibv_'; then libraries=-libverbs; fi
    link() {
        to=$1
        host=$2
        shift 2
        # shellcheck disable=SC2086 # a word an object
        "$compiler" -o "$out/$to" "$host" $objects $libraries -fopenmp -pthread -ldl "$@"
    }
    link one.so "$host" -shared
    link bsymbolic.so "$host" -shared -Wl,-Bsymbolic
    link hidden.so "$host" -shared "-Wl,--version-script=$out/hidden.map"
    link static "$host"
    link stripped "$host" -s
    for other; do
        name=$(basename "$other")
        link "stripped-${name%%_host*}" "$other" -s
    done
fi
touch "$out/linked"
