#!/bin/sh
# Build the sidecar's image under the name $1 with the first builder found.
#
# BUILDER names another one; BUILD_ARGS is handed to it as it is (a proxy, a certificate bundle, a platform).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
image=${1:-feedwater:dev}
for builder in ${BUILDER:-docker podman buildah}; do
    if command -v "$builder" >/dev/null; then
        # shellcheck disable=SC2086  # BUILD_ARGS is a list of words
        exec "$builder" build ${BUILD_ARGS:-} --tag "$image" "$root"
    fi
done
echo "no image builder found: install docker, podman or buildah, or name one in BUILDER" >&2
exit 1
