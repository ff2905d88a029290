#!/usr/bin/env bash
# What capturing costs on a GPU, beside what others pay there: one command, under 8 minutes on one H100.
#   bench/gpu.sh BUILD_DIR OUT_DIR
# BUILD_DIR holds bin/attnscope and bin/bench_field_way of a build with CUDA (make cuda, with -DATTNSCOPE_BENCH=ON). The
# synthetic models (8.1 GB and 0.5 GB) go to /dev/shm where there is room, else to OUT_DIR, and are removed afterwards
# (KEEP_MODELS=1 keeps them, MODELS=folder says where). Every step has its own limit and leaves its JSON and its log in
# OUT_DIR; a step that fails does not stop the others. Recordings are written to OUT_DIR's disk; of the prompts they keep
# the keys only, because a GPU reads 30,000 tokens faster than a disk takes their 7 GB. PYTHON must have torch,
# transformers and matplotlib. CONTEXTS and SMALL_CONTEXTS are the lengths of the 7B and the 0.5B shape, BUDGET the seconds
# that all steps have together.
set -uo pipefail
if [ $# -ne 2 ]; then
    sed -n '2,/^set/s/^# \?//p' "$0" >&2
    exit 2
fi
here=$(cd "$(dirname "$0")" && pwd)
bin=$1/bin
mkdir -p "$2" && out=$(cd "$2" && pwd) || exit 2
python=${PYTHON:-python3}
contexts=${CONTEXTS:-512,8192,30000}
small_contexts=${SMALL_CONTEXTS:-$contexts}
end=$(($(date +%s) + ${BUDGET:-460}))
failed=0
if [ ! -x "$bin/attnscope" ]; then
    echo "error: $bin/attnscope is missing; build first (make cuda)" >&2
    exit 2
fi

models=${MODELS:-}
if [ -z "$models" ]; then
    models=$out
    free_kb=$(df -k --output=avail /dev/shm 2>/dev/null | tail -n 1)
    if [ "${free_kb:-0}" -gt 12000000 ]; then models=/dev/shm; fi
fi
big=$models/attnscope-bench-7b.gguf small=$models/attnscope-bench-0.5b.gguf
clean_up() {
    [ "${KEEP_MODELS:-0}" = 1 ] || rm -f "$big" "$small"
    rm -rf "$out"/reproduced-*/ # hundreds of megabytes of wrong rows; the JSON says what was wrong
    rm -f "$out"/reproduced-*.attn
}
trap clean_up EXIT

# step NAME LIMIT COMMAND...: standard output to NAME.json, standard error to NAME.log.
step() {
    local name=$1 limit=$2 left=$((end - $(date +%s))) start status
    shift 2
    if [ "$left" -lt 5 ]; then
        printf '%-24s left out: no time is left\n' "$name"
        failed=1
        return 1
    fi
    [ "$limit" -gt "$left" ] && limit=$left
    start=$(date +%s)
    timeout --kill-after=5 "$limit" "$@" >"$out/$name.json" 2>"$out/$name.log"
    status=$?
    if [ "$status" = 0 ]; then
        printf '%-24s %3d s\n' "$name" $(($(date +%s) - start))
        return 0
    fi
    printf '%-24s %3d s, failed with status %s%s\n' "$name" $(($(date +%s) - start)) "$status" \
        "$([ "$status" = 124 ] && echo " (its limit of $limit s)")"
    tail -n 2 "$out/$name.log" "$out/$name.json" 2>/dev/null | sed 's/^/    /' | head -n 8
    failed=1
    return 1
}

# transformers_way.py writes its own file after each length, so that running out of time loses one length only.
transformers() { # NAME LIMIT SHAPE CONTEXTS
    rm -f "$out/$1.partial.json"
    step "$1" "$2" "$python" "$here/transformers_way.py" --shape "$3" --contexts "$4" --json "$out/$1.partial.json"
    [ -s "$out/$1.partial.json" ] && mv "$out/$1.partial.json" "$out/$1.json"
}

{
    date -u
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit --format=csv
    nproc
} >"$out/machine.txt" 2>&1

step make-7b 90 "$bin/attnscope" models make --preset qwen2.5-vl-7b --force --json -o "$big"
if [ -s "$big" ]; then
    step attnscope-7b 150 "$bin/attnscope" bench -m "$big" --contexts "$contexts" -fa on --prompt-rows none --prompts 4 -o "$out" --json
    step prompts-7b 60 "$bin/attnscope" bench -m "$big" --contexts 512,8192 -fa on --drop-prompts --prompts 6 --pairs 4 -o "$out" --json
    step mean-7b 60 "$bin/attnscope" bench -m "$big" --contexts "$contexts" -fa on --prompt-rows none --device-mean -o "$out" --json
    step field-7b 120 "$bin/bench_field_way" -m "$big" --contexts "$contexts" --json
    for wait in wait no-wait; do
        step "reproduce-7b-$wait" 60 "$bin/attnscope" reproduce -m "$big" -n 387 --ignore-eos --$wait \
            -o "$out/reproduced-$wait" --json
    done
fi
transformers transformers-7b 110 qwen2.5-vl-7b "$contexts"
[ "${KEEP_MODELS:-0}" = 1 ] || rm -f "$big"
step make-0.5b 30 "$bin/attnscope" models make --preset qwen2.5-0.5b --force --json -o "$small"
if [ -s "$small" ]; then
    step attnscope-0.5b 90 "$bin/attnscope" bench -m "$small" --contexts "$small_contexts" -fa on --prompt-rows none -o "$out" --json
    step field-0.5b 60 "$bin/bench_field_way" -m "$small" --contexts "$small_contexts" --json
fi
transformers transformers-0.5b 60 qwen2.5-0.5b "$small_contexts"

echo
cat "$out/machine.txt"
for shape in 7b 0.5b; do
    echo
    "$python" "$here/plot_cost.py" --title "$shape shape" -o "$out/cost_vs_context-$shape.svg" \
        "$out/attnscope-$shape.json" "$out/field-$shape.json" "$out/transformers-$shape.json"
done
for wait in wait no-wait; do
    echo
    echo "reproduce --$wait:"
    grep -E '"(tokens|on_gpu|normalised|raw|flips|one_layer_tokens|same_strongest|cause)"' "$out/reproduce-7b-$wait.json" 2>/dev/null
done
exit $failed
