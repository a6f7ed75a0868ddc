#!/bin/sh
# Lint the wire contract with buf, which npm brings; without npm this is skipped, except in CI.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
node=$root/.cache/node
buf=$node/node_modules/.bin/buf
if command -v buf >/dev/null; then
    buf=buf
elif [ ! -x "$buf" ]; then
    if ! command -v npm >/dev/null; then
        echo "buf lint skipped: neither buf nor npm is installed"
        [ -z "${CI:-}" ]
        exit
    fi
    mkdir -p "$node"
    npm install --silent --no-fund --no-audit --prefix "$node" @bufbuild/buf@1.50.0
fi
"$buf" lint "$root/protos"
echo "buf lint: clean"
