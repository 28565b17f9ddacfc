"""Runs a program that a model has written: in a process with little time, memory and disk, and
where it can be had no network.

It bounds accidents, and is no prison: what is run comes from models that one has chosen.
"""

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import tempfile

SECONDS = 10
_MEMORY = 1 << 30
_FILE = 1 << 20
# A status that nobody has by chance.
_ENDED = 97
_AT_THE_END = f"__import__('os')._exit({_ENDED})\n"
_NEW_USER = 0x10000000
_NEW_NET = 0x40000000


def run_to_end(program: str, seconds: float = SECONDS) -> bool:
    """Whether a Python program comes to its end within so many seconds: without an exception, and
    without leaving early.
    """
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": os.defpath},
            start_new_session=True,
            preexec_fn=_bounded,
        )
        try:
            process.communicate(
                f"{program}\n{_AT_THE_END}".encode(errors="replace"), timeout=seconds
            )
        except subprocess.TimeoutExpired:
            return False
        finally:
            # Whatever it has started goes with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return process.returncode == _ENDED


def _bounded() -> None:
    """In the child, before the program begins."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE, _FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform.startswith("linux"):
        # A network of its own, with nothing in it; the system may not allow that.
        ctypes.CDLL(None).unshare(_NEW_USER | _NEW_NET)
