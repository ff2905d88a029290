#!/usr/bin/env bash
# Client libraries, exactly as requirements.txt and package-lock.json pin them, against the built server.
#   run.sh BUILD_DIR ATTNSCOPE NODE
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$1/clients
mkdir -p "$work/npm"
if ! cmp -s "$here/requirements.txt" "$work/requirements.txt"; then
    rm -rf "$work/venv"
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$work/requirements.txt"
fi
if ! cmp -s "$here/package-lock.json" "$work/npm/installed"; then
    cp "$here/package.json" "$here/package-lock.json" "$work/npm/"
    (cd "$work/npm" && npm ci --ignore-scripts --no-audit --no-fund --silent)
    cp "$here/package-lock.json" "$work/npm/installed"
fi
cp "$here/clients.py" "$here/clients.mjs" "$work/npm/" # modules are looked for beside who asks for them
exec "$work/venv/bin/python" "$work/npm/clients.py" "$2" "$3"
