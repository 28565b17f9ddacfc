#!/bin/sh
# llama_wheel.sh PIP CACHE: prints the folder in CACHE that holds a wheel of llama.cpp, which is built with CMAKE_ARGS if it is
# not there. The folder is named after the version and the arguments: pip's own cache does not know them.
set -eu
version=$(sed -n 's/^llama-cpp-python==//p' "$(dirname "$0")/../constraints.txt")
name="llama-$version-$(printf '%s' "${CMAKE_ARGS:-}" | cksum | cut -d ' ' -f 1)-$(uname -m)"
folder="$2/$name"
if ! ls "$folder"/*.whl >/dev/null 2>&1; then
    command -v c++ >/dev/null || { echo "llama.cpp has to be compiled, and no C++ compiler is here (Debian: apt install g++)" >&2; exit 1; }
    echo "building llama.cpp $version: five to ten minutes, once" >&2
    mkdir -p "$2"
    made=$(mktemp -d "$2/building.XXXXXX")
    "$1" wheel --quiet --disable-pip-version-check --no-cache-dir --no-deps -w "$made" "llama-cpp-python==$version" >&2
    mv "$made" "$folder" 2>/dev/null || rm -rf "$made"
fi
echo "$folder"
