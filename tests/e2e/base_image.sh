#!/bin/sh
# Make sure that the image which the Dockerfile starts from is there: pulled, or made from Debian's packages
# where no registry can be reached. $1 caches the Debian tree.
set -eu
name=docker.io/library/python:3.11-slim-bookworm
cache=${1:-.cache/image}
podman image exists "$name" && exit
timeout 30 podman pull --quiet "$name" 2>/dev/null && exit
mkdir -p "$cache"
if [ ! -f "$cache/base.tar" ]; then
    rm -rf "$cache/tree"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$cache/tree" >"$cache/log"
    # As the official slim image: no package lists, no caches, no documentation.
    rm -rf "$cache"/tree/var/lib/apt/lists/* "$cache"/tree/var/cache/apt/* \
        "$cache"/tree/usr/share/doc/* "$cache"/tree/usr/share/man/* "$cache"/tree/usr/share/locale/*
    tar -C "$cache/tree" -c . -f "$cache/base.tar"
    rm -rf "$cache/tree"
fi
podman import --quiet \
    -c 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' "$cache/base.tar" "$name"
