#!/bin/sh
# Generate the wire code anew and compare it with what is committed.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"$root/protos/generate.sh" "$fresh"
for file in "$fresh"/feedwater/v1/*; do
    diff -u "$root/client/feedwater/v1/$(basename "$file")" "$file" || {
        echo "client/feedwater/v1 is not what protos/ says: run make proto" >&2
        exit 1
    }
done
echo "generated code: current"
