#!/usr/bin/env bash
# Builds every fuzzer and runs each for FUZZ_SECONDS (60) on its corpus. A crash stops everything and names its input.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${FUZZ_SECONDS:-60}
cmake --preset fuzz >/dev/null
targets=()
for source in tests/fuzz/*.cpp; do targets+=("fuzz_$(basename "$source" .cpp)"); done
cmake --build --preset fuzz --target "${targets[@]}"
for target in "${targets[@]}"; do
    name=${target#fuzz_}
    work=build-fuzz/corpus/$name
    mkdir -p "$work"
    echo "fuzz: $name for $seconds s"
    build-fuzz/bin/"$target" -max_total_time="$seconds" -print_final_stats=1 -artifact_prefix="build-fuzz/$name-" \
        "$work" $([ -d "tests/fuzz/corpus/$name" ] && echo "tests/fuzz/corpus/$name") 2>&1 |
        grep -E 'SUMMARY|stat::number_of_executed_units|Test unit written|ERROR' || true
    [ "${PIPESTATUS[0]}" -eq 0 ] || { echo "error: $name found something; see build-fuzz/" >&2; exit 1; }
done
