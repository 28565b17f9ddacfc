"""A hedge-cloud of the bundled pair on a free loopback port, for as long as a `with` block lasts."""

import ctypes
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def local_cloud(*options: str) -> Iterator[str]:
    """Yields HOST:PORT. The server is stopped however the block ends, and on Linux even if this process is killed."""
    command = [str(BIN / "hedge-cloud"), "serve", "--insecure", "--listen", "127.0.0.1:0", *options]
    # A session of its own: Ctrl-C is for the chat, not for the server.
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_die_with_parent)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        assert server.stderr
        said = []
        for line in server.stderr:
            if found := re.search(r"listening on (\S+)", line):
                yield found[1]
                return
            said.append(line)
        raise SystemExit("".join(said) or "the server ended before it listened")
    finally:
        server.terminate()
        server.wait()
