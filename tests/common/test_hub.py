"""Fetching models: from a stub of the hub on loopback, whole, cut, gated, missing, without room and
without a network.
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pexpect
import pytest

from hedge.common.errors import BadInput
from hedge.common.hub import hub_name

BIN = Path(sys.executable).parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = b"---\nlicense: apache-2.0\n---\n# A model\n"
# More than the pieces that the client writes.
WEIGHTS = bytes(range(256)) * 98304


@dataclass
class Hub:
    """What the stub holds: files by repository, those that it gives to nobody, and where it cuts a
    download, once.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: frozenset[str] = frozenset()
    cut_at: int | None = None
    # (method, path, Range) of every request.
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)
    address: str = ""


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.hub.seen.append((self.command, path, self.headers["Range"]))
        if path.startswith("/api/models/"):
            owner, name, *_ = path.removeprefix("/api/models/").split("/")
            self._listing(f"{owner}/{name}", body)
        else:
            owner, name, *rest = path.strip("/").split("/")
            self._file(f"{owner}/{name}", "/".join(rest[2:]), body)

    def _refused(self, repo: str) -> bool:
        if repo in self.hub.gated:
            self._say(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        elif repo not in self.hub.files:
            self._say(
                401,
                b"{}",
                {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"},
            )
        else:
            return False
        return True

    def _listing(self, repo: str, body: bool) -> None:
        if self._refused(repo):
            return
        if "/tree/" in self.path:
            data: object = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in self.hub.files[repo].items()
            ]
        else:
            siblings = [{"rfilename": name} for name in self.hub.files[repo]]
            data = {
                "id": repo,
                "sha": COMMIT,
                "siblings": siblings,
                "private": False,
                "tags": [],
                "downloads": 0,
            }
        self._say(
            200, json.dumps(data).encode() if body else b"", {"Content-Type": "application/json"}
        )

    def _file(self, repo: str, name: str, body: bool) -> None:
        if self._refused(repo):
            return
        if name not in self.hub.files[repo]:
            self._say(
                404,
                b"",
                {
                    "X-Error-Code": "EntryNotFound",
                    "X-Error-Message": "Entry not found",
                    "X-Repo-Commit": COMMIT,
                },
            )
            return
        content = self.hub.files[repo][name]
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        status = 200
        start = 0
        if (wanted := self.headers["Range"]) and body:
            status = 206
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._say(status, content[start:], headers, body=body)

    def _say(
        self, status: int, content: bytes, headers: dict[str, str], *, body: bool = True
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if not body:
            return
        if self.hub.cut_at is not None and len(content) > self.hub.cut_at:
            self.wfile.write(content[: self.hub.cut_at])
            self.wfile.flush()
            self.hub.cut_at = None
            self.connection.close()
            self.close_connection = True
            return
        self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub(
        {"who/gguf": {"m-q4.gguf": WEIGHTS, "README.md": CARD}, "who/secret": {}},
        frozenset({"who/secret"}),
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": made}))
    made.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


def hedge(
    home: Path, address: str, *arguments: str, **more: str
) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {
        "HF_HOME": str(home),
        "HF_ENDPOINT": address,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **more,
    }
    command = [str(BIN / "hedge"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=environment
    )


def one_line(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """Progress bars apart, one line that names what is wrong."""
    said = [
        line for line in done.stderr.replace("\r", "\n").splitlines() if line.startswith("hedge: ")
    ]
    assert done.returncode == status, done.stderr
    assert len(said) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "Retrying" not in done.stderr
    for word in words:
        assert word in said[0]


def downloads(hub: Hub) -> list[tuple[str, str, str | None]]:
    return [request for request in hub.seen if request[0] == "GET" and request[1].endswith(".gguf")]


NAME = "hf:who/gguf/m-q4.gguf"


def test_a_file_is_fetched_once_and_listed(hub: Hub, tmp_path: Path) -> None:
    done = hedge(tmp_path, hub.address, "pull", NAME)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == WEIGHTS
    hub.seen.clear()
    assert hedge(tmp_path, hub.address, "pull", NAME).stdout == done.stdout
    assert not hub.seen
    listed = hedge(tmp_path, hub.address, "models", "--json")
    found = {one["name"]: one for one in map(json.loads, listed.stdout.splitlines())}
    assert found[NAME] == {"name": NAME, "bytes": len(WEIGHTS), "licence": "apache-2.0"}
    assert "bundled" in found
    assert f"{NAME}  " in hedge(tmp_path, hub.address, "models").stdout


def test_on_a_terminal_a_bar_shows_how_far_it_is(hub: Hub, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": hub.address,
        "COLUMNS": "100",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    said = pexpect.run(f"{BIN / 'hedge'} pull {NAME}", env=environment, timeout=60).decode()
    assert "m-q4.gguf: 100%" in said


def test_a_download_that_is_cut_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.cut_at = 15 << 20
    done = hedge(tmp_path, hub.address, "pull", NAME)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == WEIGHTS
    assert len(downloads(hub)) == 2
    assert downloads(hub)[1][2] is not None


def test_a_split_set_is_fetched_whole(hub: Hub, tmp_path: Path) -> None:
    parts = {f"big-0000{part}-of-00002.gguf": bytes([part]) * 999 for part in (1, 2)}
    hub.files["who/split"] = dict(parts)
    done = hedge(tmp_path, hub.address, "pull", "hf:who/split/big-00001-of-00002.gguf")
    assert done.returncode == 0, done.stderr
    first = Path(done.stdout.strip())
    assert {path.name: path.read_bytes() for path in first.parent.glob("*.gguf")} == parts


@pytest.mark.process
def test_a_repository_of_safetensors_is_fetched_whole_and_runs(hub: Hub, tmp_path: Path) -> None:
    from hedge.common.model import bundled_folder

    folder = bundled_folder() / "slm"
    hub.files["who/torch"] = {path.name: path.read_bytes() for path in folder.iterdir()} | {
        "weights.bin": b"never"
    }
    asked = (
        "generate",
        "--system",
        "slm",
        "--slm",
        "hf:who/torch",
        "--temperature",
        "0",
        "--seed",
        "1",
        "--threads",
        "1",
    )
    done = hedge(
        tmp_path, hub.address, *asked, "--max-new-tokens", "4", "--prompt", "What is 1 + 1?"
    )
    assert done.returncode == 0, done.stderr
    assert not [path for _, path, _ in hub.seen if path.endswith(".bin")]
    hub.seen.clear()
    assert (
        hedge(
            tmp_path, hub.address, *asked, "--max-new-tokens", "4", "--prompt", "What is 1 + 1?"
        ).stdout
        == done.stdout
    )
    assert not hub.seen


def test_gated_and_missing_things_are_named(hub: Hub, tmp_path: Path) -> None:
    one_line(
        hedge(tmp_path, hub.address, "pull", "hf:who/secret/m.gguf"),
        1,
        "hf:who/secret/m.gguf is gated",
        "HF_TOKEN",
    )
    one_line(
        hedge(tmp_path, hub.address, "pull", "hf:who/none/m.gguf"), 2, "no repository who/none"
    )
    one_line(
        hedge(tmp_path, hub.address, "pull", "hf:who/gguf/other.gguf"),
        2,
        "no file other.gguf",
        "it has m-q4.gguf",
    )
    one_line(hedge(tmp_path, hub.address, "pull", "hf:who/gguf"), 2, "no safetensors", "m-q4.gguf")


def test_without_a_network_it_says_what_is_here(hub: Hub, tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"
    one_line(
        hedge(tmp_path, nobody, "pull", NAME), 1, "cannot reach the hub; already here: nothing"
    )
    assert hedge(tmp_path, hub.address, "pull", NAME).returncode == 0
    one_line(
        hedge(tmp_path, nobody, "pull", "hf:who/gguf/other.gguf"),
        1,
        f"cannot reach the hub; already here: {NAME}",
    )
    one_line(hedge(tmp_path, nobody, "pull", "hf:who/torch"), 1, f"already here: {NAME}")
    assert hedge(tmp_path, nobody, "pull", NAME).returncode == 0
    mistyped = hedge(
        tmp_path, nobody, "generate", "--system", "slm", "--prompt", "a", "--slm", "modls/slm"
    )
    one_line(mistyped, 1, "no slm at modls/slm, and on the hub: cannot reach the hub")
    offline = hedge(tmp_path, hub.address, "pull", "hf:who/torch", HF_HUB_OFFLINE="1")
    one_line(offline, 1, "cannot reach the hub")


def test_a_full_disk_is_named_and_the_next_try_goes_on(hub: Hub, tmp_path: Path) -> None:
    """The file-size limit of the process stands in for the end of the disk: the write fails in the
    middle.
    """
    program = f"""if True:
        import errno, sys
        from huggingface_hub import file_download
        whole = file_download.http_get
        class Full:
            def __init__(self, file): self.file = file
            def __getattr__(self, name): return getattr(self.file, name)
            def write(self, data):
                self.file.write(data[: 1 << 20]); self.file.flush()
                raise OSError(errno.ENOSPC, "No space left on device")
        file_download.http_get = lambda url, file, **more: whole(url, Full(file), **more)
        from hedge.edge_client.cli.main import main
        sys.argv = ["hedge", "pull", {NAME!r}]
        main()
    """
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.address}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environment,
    )
    one_line(done, 1, "the disk is full", "goes on from there")
    hub.seen.clear()
    again = hedge(tmp_path, hub.address, "pull", NAME)
    assert Path(again.stdout.strip()).read_bytes() == WEIGHTS
    assert downloads(hub)[0][2] is not None


@pytest.mark.parametrize(
    "name",
    [
        "hf:",
        "hf:one",
        "hf:../x/y",
        "hf:a/../b.gguf",
        "hf:a/b/../c.gguf",
        "hf:a/b.gguf",
        "hf:a/b/c.bin",
        "hf:/a/b",
    ],
)
def test_names_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="is no name on the hub"):
        hub_name(name)


def test_paths_are_not_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_name("a/b") is None
    assert hub_name("/a/b.gguf") is None
    assert hub_name("./model.gguf") is None
    assert hub_name("models/mine.gguf") is None
    assert str(hub_name("a/c")) == "hf:a/c"
    assert str(hub_name("hf:a/c/d/e.gguf")) == "hf:a/c/d/e.gguf"
