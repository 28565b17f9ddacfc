"""Programs of ours on free loopback ports, for as long as a `with` block lasts."""

import ctypes
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent
_PR_SET_PDEATHSIG = 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def run_cloud(*options: str) -> AbstractContextManager[str]:
    """A hedge-cloud of the bundled pair; yields HOST:PORT."""
    return run_program("hedge-cloud", "serve", "--insecure", "--listen", "127.0.0.1:0", *options)


@contextmanager
def run_program(program: str, *arguments: str) -> Iterator[str]:
    """Yields HOST:PORT. The program is stopped however the block ends, and on Linux even if this
    process is killed.
    """
    command = [str(BIN / program), *arguments]
    # A session of its own: Ctrl-C is for the chat, not for the server.
    running = subprocess.Popen(  # noqa: S603
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    reader: threading.Thread | None = None
    try:
        assert running.stderr
        lines = []
        for line in running.stderr:
            if found := re.search(r"listening on (\S+)", line):
                # A program whose lines nobody reads would wait for a reader.
                reader = threading.Thread(target=deque, args=(running.stderr, 0), daemon=True)
                reader.start()
                yield found[1]
                return
            lines.append(line)
        raise SystemExit("".join(lines) or f"{program} ended before it listened")
    finally:
        running.terminate()
        running.wait()
        if reader:
            # A child of the program's own may hold its stderr.
            reader.join(1)
        if running.stderr and not (reader and reader.is_alive()):
            running.stderr.close()
