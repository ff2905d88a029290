#!/usr/bin/env bash
# Client libraries, exactly as requirements.txt and package-lock.json pin them, against the built server; and beside the llama-server that
# it starts: Open WebUI's requests, and pictures.
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
cp "$here"/*.py "$here/clients.mjs" "$work/npm/" # modules are looked for beside who asks for them
failed=0
for script in open_webui pictures; do
    "$work/venv/bin/python" "$work/npm/$script.py" "$2" || failed=1
done
"$work/venv/bin/python" "$work/npm/clients.py" "$2" "$3" || failed=1
exit $failed
