"""make compose-test: the containers, asked through the page and the command line, with a cloud and
without.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
QUESTION = "What is 47 + 38?"
SLOW, TLS, LIGHT = (f"docker/{name}.yml" for name in ("slow", "tls", "light"))
WAIT_SECONDS = 120.0


def say(line: str) -> None:
    sys.stderr.write(f"compose-test: {line}\n")


def run(*command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if check and found.returncode:
        sys.exit(f"compose-test: {' '.join(command)} failed:\n{found.stdout}{found.stderr}")
    return found


def compose_command() -> list[str]:
    if shutil.which("docker") is None or run("docker", "info", check=False).returncode:
        sys.exit(
            "compose-test: no Docker engine answers (docker info fails): start one, or add "
            "yourself to its group"
        )
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and run(*command, "version", check=False).returncode == 0:
            return command
    sys.exit("compose-test: neither 'docker compose' nor 'docker-compose' is installed")


def until(what: str, holds: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not holds():
        if time.monotonic() > end:
            sys.exit(f"compose-test: {what}: not after {WAIT_SECONDS:g} s")
        time.sleep(0.5)


class Containers:
    """`docker-compose` with the files of one variant; the ports are not the usual ones."""

    def __init__(self, *overlays: str) -> None:
        files = [word for name in ("docker-compose.yml", *overlays) for word in ("-f", name)]
        self._command = [*compose_command(), "--project-name", "hedge-test", *files]
        self._page = f"http://127.0.0.1:{os.environ['HEDGE_PORT']}"

    def do(self, *words: str, check: bool = True) -> str:
        return run(*self._command, *words, check=check).stdout.strip()

    def up(self) -> None:
        self.do("up", "-d", "--remove-orphans")
        for service in ("cloud", "edge"):
            until(f"{service} is healthy", partial(self.is_healthy, service))

    def is_healthy(self, service: str) -> bool:
        return self.health(service) == "healthy"

    def health(self, service: str) -> str:
        name = self.do("ps", "-q", service)
        return (
            run(
                "docker", "inspect", "--format", "{{.State.Health.Status}}", name, check=False
            ).stdout.strip()
            if name
            else ""
        )

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self._page + path, timeout=30) as answer:
            return bytes(answer.read())

    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.get("/hedge/state")))

    def ask(self) -> tuple[str, dict[str, Any]]:
        """The text of an answer of the page's API, and its `hedge` block."""
        body = {
            "model": "hedge",
            "messages": [{"role": "user", "content": QUESTION}],
            "temperature": 0,
            "seed": 0,
        }
        request = urllib.request.Request(
            self._page + "/v1/chat/completions", json.dumps(body).encode()
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            choice = json.loads(answer.read())["choices"][0]
        return choice["message"]["content"], choice["hedge"]


def right(answer: tuple[str, dict[str, Any]]) -> None:
    text, block = answer
    assert text.endswith("Answer: 85"), text
    assert block["exact"], block
    assert not block["offline"], block


def plain(containers: Containers) -> None:
    say("starting")
    containers.up()
    for service in ("cloud", "edge"):
        assert containers.do("exec", "-T", service, "id", "-u") == "1000"
        assert (
            "Read-only"
            in run(
                *containers._command, "exec", "-T", service, "touch", "/opt/x", check=False
            ).stderr
        )
    say("asking through the page")
    assert b"<title>Hedge" in containers.get("/")
    right(containers.ask())
    say("asking through the command line")
    found = containers.do(
        "run",
        "--rm",
        "-T",
        "edge",
        "hedge",
        "generate",
        "--json",
        "--temperature",
        "0",
        "--prompt",
        QUESTION,
    )
    said = json.loads(found.splitlines()[-1])
    assert said["text"].endswith("Answer: 85"), said
    assert said["stats"]["asked"] > 0, said["stats"]
    say("cutting the cloud")
    containers.do("kill", "cloud")
    text, block = containers.ask()
    assert text, "an answer without the cloud"
    assert block["offline"], block
    assert "offline" in block["provenance"], block
    assert not block["exact"], block
    assert not containers.state()["up"]
    say("bringing it back")
    containers.do("start", "cloud")
    until("the edge finds the cloud again", lambda: bool(containers.state()["up"]))
    right(containers.ask())


def slow(containers: Containers) -> None:
    say("a slow link")
    containers.up()
    link = containers.state()["link"]
    assert link["delay"] == 0.05, link
    assert link["rate"] == 1e6, link
    right(containers.ask())


def tls(containers: Containers) -> None:
    say("TLS with certificates of both sides")
    containers.up()
    right(containers.ask())
    stranger = (
        "run",
        "--rm",
        "-T",
        "-e",
        "HEDGE_CONFIG=",
        "edge",
        "hedge",
        "generate",
        "--insecure",
        "--cloud",
        "cloud:7411",
    )
    without = (*stranger[:-3], "--tls-ca", "/certs/ca.pem", *stranger[-2:])
    for words in (stranger, without):
        refused = run(*containers._command, *words, "--prompt", QUESTION, check=False)
        assert refused.returncode == 1, refused.stdout + refused.stderr
        assert "no Hedge cloud answers" in refused.stderr, refused.stderr


def light(containers: Containers, models: str) -> None:
    """The bundled pair as GGUF files, and a device that has no torch."""
    say("GGUF files on both sides, the device without torch")
    os.environ |= {"HEDGE_MODELS": models, "HEDGE_SLM": "slm.gguf", "HEDGE_LLM": "llm.gguf"}
    containers.do("build")
    containers.up()
    right(containers.ask())
    installed = containers.do(
        "exec", "-T", "edge", "sh", "-c", "ls /opt/hedge/lib/python3*/site-packages"
    ).split()
    assert "llama_cpp" in installed, installed
    assert not {"torch", "transformers"} & set(installed), installed


def main() -> None:
    os.environ.setdefault("HEDGE_PORT", "18080")
    os.environ.setdefault("HEDGE_OPERATOR_PORT", "19100")
    everything = Containers()
    say("building")
    everything.do("build")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEDGE_CERTS"], os.environ["HEDGE_USER"] = f"{folder}/certs", str(os.getuid())
        run("sh", "tools/certs.sh", f"{folder}/certs", "cloud")
        try:
            plain(everything)
            slow(Containers(SLOW))
            tls(Containers(TLS))
            if (models := os.environ.get("HEDGE_GGUF")) is not None:
                light(Containers(LIGHT), models)
            else:
                say(
                    "the light device is not tried: HEDGE_GGUF names no folder with slm.gguf and "
                    "llm.gguf (tools.to_gguf)"
                )
        except (AssertionError, OSError) as error:
            sys.stderr.write(everything.do("logs", "--tail", "40", check=False) + "\n")
            sys.exit(f"compose-test: not as it should be: {error}")
        finally:
            everything.do("down", "--volumes", "--remove-orphans", check=False)
    for image in ("hedge", "hedge-light"):
        if (
            found := run("docker", "image", "inspect", "--format", "{{.Size}}", image, check=False)
        ).returncode == 0:
            say(f"image {image}: {int(found.stdout) / 1e6:.0f} MB")
    say("passed")


if __name__ == "__main__":
    main()
