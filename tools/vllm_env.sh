#!/bin/sh
# vllm_env.sh PYTHON CACHE VENV: makes VENV, in which Hedge runs on vLLM. vLLM and what it needs are gigabytes, and are kept in
# CACHE, in a folder that is named after the list of them.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
kept="$2/vllm-$(cksum <"$here/vllm-requirements.txt" | cut -d ' ' -f 1)-py$version-$(uname -m)"
if [ ! -d "$kept" ]; then
    echo "installing vLLM: three gigabytes, once" >&2
    mkdir -p "$2"
    made=$(mktemp -d "$2/building.XXXXXX")
    "$1" -m venv "$made"
    "$made/bin/pip" install --quiet --disable-pip-version-check -r "$here/vllm-requirements.txt"
    # Built for other versions of torch, they would be imported all the same.
    "$made/bin/pip" uninstall --quiet --disable-pip-version-check --yes torchvision torchaudio torchcodec
    mv "$made" "$kept" 2>/dev/null || rm -rf "$made"
fi
"$1" -m venv "$3"
echo "$kept/lib/python$version/site-packages" >"$3/lib/python$version/site-packages/vllm.pth"
"$3/bin/pip" install --quiet --disable-pip-version-check --no-deps -e "$here/.."
