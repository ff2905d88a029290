#!/usr/bin/env bash
# Is every C++, C and CUDA file as .clang-format has it? Names those that are not.
#   scripts/check-format.sh         exit code 1 when one is not (part of `make test`)
#   scripts/check-format.sh --fix   formats them
set -euo pipefail
cd "$(dirname "$0")/.."
formatter=$(command -v clang-format-14) || { echo "error: no clang-format-14 (other versions format otherwise); scripts/setup.sh installs it" >&2; exit 2; }
mapfile -t files < <(find src include tests bench examples python fuzz -name '*.inc' -prune -o \
    \( -name '*.h' -o -name '*.hpp' -o -name '*.c' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) \
    -not -path '*/node_modules/*' -not -path '*/build/*' -print 2>/dev/null | sort)
[ "${#files[@]}" -gt 100 ] || { echo "error: found ${#files[@]} files; these are not the sources" >&2; exit 2; }
if [ "${1:-}" = --fix ]; then
    exec "$formatter" -i "${files[@]}"
fi
"$formatter" --dry-run -Werror "${files[@]}" 2>&1 | sed -n 's/^\([^ :]*\):[0-9]*:[0-9]*: error:.*/\1/p' | sort -u | tee /tmp/attnscope-format.$$ || true
n=$(wc -l </tmp/attnscope-format.$$); rm -f /tmp/attnscope-format.$$
[ "$n" -eq 0 ] || { echo "$n of ${#files[@]} files are not as .clang-format has them: scripts/check-format.sh --fix"; exit 1; }
echo "${#files[@]} files are as .clang-format has them"
