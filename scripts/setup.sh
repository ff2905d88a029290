#!/usr/bin/env bash
# Installs the Debian packages of scripts/packages.txt that are missing.
#   scripts/setup.sh        all of them
#   scripts/setup.sh build  those above the line "# tests": what building and running needs
set -euo pipefail
cd "$(dirname "$0")/.."
missing=()
packages=$(if [ "${1:-}" = build ]; then sed '/^# tests/,$d' scripts/packages.txt; else cat scripts/packages.txt; fi)
for package in $(grep -v '^#' <<<"$packages"); do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
# A newer npm or Node.js from elsewhere does as well as Debian's.
if command -v npm >/dev/null; then
    missing=("${missing[@]/#npm/}")
fi
missing=($(printf '%s\n' ${missing[@]+"${missing[@]}"} | grep -v '^$' || true))
if [ ${#missing[@]} -eq 0 ]; then
    echo "setup: all packages are there"
    exit 0
fi
echo "setup: installing ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "error: run this as root: apt-get install ${missing[*]}" >&2; exit 2; }
    as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq >/dev/null 2>&1 || echo "warning: apt-get update failed; trying with the lists that are there" >&2
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/tmp/attnscope-apt.log 2>&1 ||
    { tail -20 /tmp/attnscope-apt.log >&2; echo "error: apt-get could not install the packages; the log is /tmp/attnscope-apt.log" >&2; exit 2; }
