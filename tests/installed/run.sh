#!/usr/bin/env bash
# Installs a build into an empty folder, moves it, and builds and runs a project outside the tree against it.
#   tests/installed/run.sh BUILD_DIR
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --component sdk --prefix "$work/first" >/dev/null
cmake -S "$here" -B "$work/c-alone" -G Ninja -DWITHOUT_CXX=ON -DCMAKE_PREFIX_PATH="$work/first" >"$work/log" 2>&1 &&
    { echo "a project without C++ was configured"; exit 1; }
grep -q "enables CXX" "$work/log" || { cat "$work/log"; exit 1; }
mv "$work/first" "$work/moved" # nothing in it may know where it was
cmake -S "$here" -B "$work/project" -G Ninja -DCMAKE_PREFIX_PATH="$work/moved" -DCMAKE_BUILD_TYPE=Release >"$work/log" ||
    { cat "$work/log"; exit 1; }
cmake --build "$work/project" >"$work/log" || { cat "$work/log"; exit 1; }
"$work/moved/bin/attnscope" --version
ldd "$work/moved/bin/attnscope" | grep libllama | grep -q "$work/moved/" || { echo "the command takes the engine from elsewhere"; exit 1; }
grep -rq CPPHTTPLIB "$work/project/build.ninja" && { echo "settings of our cpp-httplib reach programs that use the package"; exit 1; }
# where libraries go is the system's custom: on Debian lib/x86_64-linux-gnu
libdir=$(sed -n 's/^CMAKE_INSTALL_LIBDIR:PATH=//p' "$build/CMakeCache.txt")
grep -o '_IMPORT_PREFIX}/[^";]*/attnscope/libllama[^";]*' "$work/moved/$libdir"/cmake/attnscope/attnscope-targets.cmake |
    grep -qv "_IMPORT_PREFIX}/$libdir/" && { echo "the package looks for the engine elsewhere than in $libdir"; exit 1; }
"$work/project/from_cpp"
"$work/moved/bin/attnscope" models make --layers 2 -o "$work/made.gguf" >/dev/null
"$work/project/from_c" "$work/made.gguf" "$work/made.attn"
"$work/moved/bin/attnscope" attach -o "$work" -- true 2>/dev/null # the library that goes into programs came along
# and the engine's server, which finds its libraries here
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$work/moved/bin/attnscope" serve -m "$work/made.gguf" -t 1 --port "$port" >"$work/log" &
server=$!
for _ in $(seq 150); do grep -q listening "$work/log" && break; sleep 0.2; done
curl -sf "http://127.0.0.1:$port/completion" -d '{"prompt": [11, 27, 3], "n_predict": 2, "attention": {"reduce": "mean"}}' | grep -q '"verdict":"ok"' ||
    { echo "attnscope serve does not answer where it is installed"; kill $server; exit 1; }
kill $server
wait $server
