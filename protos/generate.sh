#!/bin/sh
# Generate the wire code into the directory $1 (default: the client's package).
#
# An old generator on purpose: code from newer ones refuses, at import, the older protobuf and grpcio that
# other packages chose in a training image; code from this one runs on protobuf 4.25 to the newest.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root/client}
venv=$root/.cache/proto-venv
if [ ! -x "$venv/bin/protoc-gen-mypy" ]; then
    # grpcio-tools 1.62.3 has wheels up to Python 3.12 and imports pkg_resources.
    python=${PROTO_PYTHON:-$("$root/protos/python.sh")}
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --quiet 'setuptools<81' grpcio-tools==1.62.3 mypy-protobuf==3.6.0
fi
mkdir -p "$out"
PATH=$venv/bin:$PATH "$venv/bin/python" -m grpc_tools.protoc -I "$root/protos" \
    --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" \
    feedwater/v1/feedwater.proto
