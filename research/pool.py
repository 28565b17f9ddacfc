"""A pool of processes that end with their parent, however it ends, and leave Ctrl-C to it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def share_work(
    processes: int,
    start: Callable[..., None],
    made_of: tuple[Any, ...],
    work: Callable[[T], R],
    items: Sequence[T],
) -> Iterator[R]:
    """Yields `work(item)` as items are done; each process calls `start(*made_of)` first."""
    if not items:
        return
    with (
        _note_ctrl_c() as pressed,
        multiprocessing.get_context("spawn").Pool(processes, _begin, (start, *made_of)) as pool,
    ):
        for found in pool.imap_unordered(work, items):
            if pressed:
                raise KeyboardInterrupt
            yield found


def _begin(start: Callable[..., None], *made_of: Any) -> None:
    # Ctrl-C is for the parent, which keeps what is finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start(*made_of)


def _end_with_parent() -> None:
    # A parent that was killed cannot end its pool.
    if parent := multiprocessing.parent_process():
        parent.join()
    os._exit(1)


@contextmanager
def _note_ctrl_c() -> Iterator[list[int]]:
    """Notes a KeyboardInterrupt in the list: one raised inside a finaliser is only printed."""
    pressed: list[int] = []

    def note(number: int, _: object) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
