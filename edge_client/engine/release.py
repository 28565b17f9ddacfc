"""From final tokens to released text: whole characters only, stop strings cut off."""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"
_WINDOW = 24


class TextRelease:
    """Feeds on token ids, gives text that will never be taken back; `stopped` once a stop string
    has been seen.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._start = 0
        self._decoded = ""
        self._held = ""
        self.text = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that `token` releases."""
        self._ids.append(token)
        whole = self._decode(self._ids[self._start :])
        if whole.endswith(_INCOMPLETE) and len(self._ids) - self._start < 2 * _WINDOW:
            return ""
        fresh = whole[len(self._decoded) :]
        self._decoded = whole
        if len(self._ids) - self._start > _WINDOW:
            # A decoder may treat a word differently at the start of a text, so the window slides on
            # a decoded seam.
            self._start = len(self._ids) - 4
            self._decoded = self._decode(self._ids[self._start :])
        return self._release(fresh, final=False)

    def preview(self, tokens: Sequence[int]) -> str:
        """What follows `text` if `tokens` become final: whole characters."""
        whole = self._decode([*self._ids[self._start :], *tokens])
        return (self._held + whole[len(self._decoded) :]).rstrip(_INCOMPLETE)

    def finish(self) -> str:
        """What was held back: an unfinished character, the beginning of a stop string that never
        came.
        """
        whole = self._decode(self._ids[self._start :])
        return self._release(whole[len(self._decoded) :], final=True)

    def _release(self, fresh: str, *, final: bool) -> str:
        if self.stopped:
            return ""
        self._held += fresh
        ends = [at for at in (self._held.find(stop) for stop in self._stop) if at >= 0]
        if ends:
            self.stopped = True
            keep = min(ends)
        elif final:
            keep = len(self._held)
        else:
            keep = len(self._held) - max(
                (overlap(self._held, stop) for stop in self._stop), default=0
            )
        released = self._held[:keep]
        self._held = self._held[keep:]
        self.text += released
        return released


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next(
        (n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0
    )
