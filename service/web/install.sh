#!/bin/sh
# Install what the page is built from and tested with, as the lock file has it; nothing if that is there.
set -eu
cd "$(dirname "$0")"
if [ -e node_modules/.package-lock.json ] && [ ! package-lock.json -nt node_modules/.package-lock.json ]; then
    exit
fi
npm ci --silent --no-fund --no-audit
touch node_modules/.package-lock.json
