#!/usr/bin/env bash
# Builds the page of web/ into the folder given: viewer.js and viewer.css, and widget.js for other pages. Packages are exactly those that
# web/package-lock.json pins by hash; no package's scripts are run.
set -euo pipefail
out=$1
cd "$(dirname "$0")/../web"
stamp=node_modules/.installed
want=$(sha256sum package-lock.json | cut -d' ' -f1)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$want" ]; then
    npm ci --ignore-scripts --no-audit --no-fund --silent ||
        { echo "error: npm could not install web/; is the network or a registry mirror reachable? Then run this again" >&2; exit 2; }
    echo "$want" >"$stamp"
fi
node_modules/.bin/tsc --noEmit
ATTNSCOPE_WEB_OUT=$out node_modules/.bin/vite build --logLevel warn
ATTNSCOPE_WEB_OUT=$out node_modules/.bin/vite build --mode widget --logLevel warn
