#!/usr/bin/env bash
# The demonstration: a real model, a real prompt, the attention of every token, proven, recorded and shown.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=build/bin/attnscope
mkdir -p build/demo
rm -f build/demo/demo.attn
"$bin" models get smollm2
prompt='Anna keeps bees in Oslo. Boris bakes bread in Lisbon. Chen repairs clocks in Kyoto. Who repairs clocks, and in which city?'
echo
echo "\$ attnscope capture --chat --temp 0 -n 48 -p \"$prompt\""
"$bin" capture --chat --temp 0 -n 48 -p "$prompt" -o build/demo/demo.attn
echo
echo "What the whole answer looked at (the brighter, the more; the first position is hidden):"
echo
color=auto
[ -t 1 ] || color=never
"$bin" show build/demo/demo.attn --generated --hide-first --log --color "${ATTNSCOPE_COLOR:-$color}"
echo
echo "Verdict, computed again from the file:"
"$bin" verify build/demo/demo.attn
echo
echo "Cost, in turns with the plain run in one process:"
"$bin" bench --contexts 512 | tail -n 2
echo
echo "The recording lies in build/demo/demo.attn"
