#!/usr/bin/env bash
# Installs what tests/web/ needs (playwright-core, which drives Debian's chromium, and the openai client) exactly as
# tests/web/package-lock.json pins it by hash. No package's scripts are run and no browser is downloaded. Safe to repeat:
# does nothing while the lock file is unchanged.
set -euo pipefail
cd "$(dirname "$0")/../tests/web"
stamp=node_modules/.installed
want=$(sha256sum package-lock.json | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then
    echo "web tests: up to date"
    exit 0
fi
command -v npm >/dev/null || { echo "error: npm is missing; run 'make setup' first" >&2; exit 2; }
npm ci --ignore-scripts --no-audit --no-fund --silent ||
    { echo "error: npm could not install tests/web; is the network or a registry mirror reachable? Then run this again" >&2; exit 2; }
echo "$want" >"$stamp"
echo "web tests: installed"
