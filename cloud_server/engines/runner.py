"""The seam above engines: what runs the steps of sessions, and where the state of their histories
lies.
"""

from typing import Protocol, TypeVar

from hedge.cloud_server.sessions.steps import Result, SessionCache, Steps

Kept = TypeVar("Kept", bound=SessionCache)


class Runner(Protocol[Kept]):
    """Runs steps of many sessions, each on a prefix of its own: in passes of its own (`Batcher`),
    or by asking an engine.
    """

    @property
    def whole_rows(self) -> bool:
        """Whether whole rows of logits are at hand, and not only what was drawn from them."""
        ...

    @property
    def capacity(self) -> int:
        """Tokens that one session may have."""
        ...

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values per token."""
        ...

    def prefix(self) -> Kept:
        """For a new session."""
        ...

    async def run(self, prefix: Kept, steps: Steps[Result]) -> tuple[Result, float, float]:
        """The result of `steps`, the seconds before they began, and those in which the model
        computed for them.
        """
        ...

    def leave(self, prefix: Kept) -> None:
        """The session has ended, however it ended."""
        ...
