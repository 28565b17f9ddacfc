#!/bin/sh
# Brings the containers up on a Docker engine, asks one question through them, tears them down.
set -eu
cd "$(dirname "$0")/.."

if ! docker info >/dev/null 2>&1; then
    echo "compose-test: no Docker engine answers (docker info fails): start one, or add yourself to its group" >&2
    exit 1
fi
if docker compose version >/dev/null 2>&1; then
    compose="docker compose"
elif docker-compose version >/dev/null 2>&1; then
    compose="docker-compose"
else
    echo "compose-test: neither 'docker compose' nor 'docker-compose' is installed" >&2
    exit 1
fi

compose="$compose --project-name hedge-test"
trap '$compose down --volumes --remove-orphans >/dev/null 2>&1' EXIT
echo "compose-test: building"
$compose build
echo "compose-test: starting the cloud"
$compose up -d cloud
echo "compose-test: asking"
answer=$($compose run -T edge hedge generate --json --temperature 0 --seed 0 --prompt "What is 47 + 38?")
echo "$answer"
echo "$answer" | python3 -c '
import json, sys
found = json.loads(sys.stdin.read().strip().splitlines()[-1])
assert found["text"].endswith("Answer: 85"), found["text"]
assert found["stats"]["asked"] > 0, found["stats"]
print("compose-test: passed")
'
