#!/usr/bin/env bash
# The demonstration: a real model, a real prompt, the attention of every token, proven, recorded and shown.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=build/bin/attnscope
recording=build/demo/demo.attn
mkdir -p build/demo
rm -f "$recording"
"$bin" models get smollm2
color=auto
[ -t 1 ] || color=never
color=${ATTNSCOPE_COLOR:-$color}
# Of the 270 heads this one gives most to the word that is written next (mean over the six words from "buried" to "tree": 88%).
layer=18 head=6
run() {
    echo
    printf "\$ attnscope"
    for word in "$@"; do case "$word" in *" "*) printf " \"%s\"" "$word" ;; *) printf " %s" "$word" ;; esac; done
    echo
    "$bin" "$@"
}
run capture --chat --temp 0 -n 10 -p "The treasure is buried under the old oak tree. Where is the treasure buried?" -o "$recording"
echo
echo "What one of the 270 heads looked at while the model wrote the answer (the brighter, the more):"
run show "$recording" --generated --hide-first --layer $layer --head $head --color "$color"
echo
echo "The same head, word by word: it reads the word that the model writes next."
for token in -8 -7 -6 -5 -4 -3; do
    "$bin" show "$recording" --token=$token --layer $layer --head $head --top 1 | sed 's/ (mean of.*//' | grep -v 'weight position'
done
echo
echo "Is that true? The verdict, computed again from the file:"
run verify "$recording"
echo
echo "What it cost, in turns with the plain run in one process:"
"$bin" bench --contexts 512 | tail -n 2
echo
echo "The recording lies in $recording. More: attnscope show --help, attnscope view $recording"
