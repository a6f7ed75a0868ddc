#!/bin/sh
# Build the page anew and compare with what is committed; without npm this is skipped, except in CI.
set -eu
web=$(cd "$(dirname "$0")" && pwd)
if ! command -v npm >/dev/null; then
    echo "page not compared: npm is not installed"
    [ -z "${CI:-}" ]
    exit
fi
"$web/install.sh"
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT
cd "$web"
npm run --silent types
node build.mjs "$built"
if ! diff -rq "$built" ../feedwater_service/web/assets; then
    echo "the page is not what service/web/ builds; run: make page" >&2
    exit 1
fi
echo "page: current"
