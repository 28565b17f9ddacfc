"""The way to the cloud as the session sees it: a stream of Drafts and Verdicts. Imports no grpc."""

from typing import Protocol

from hedge.v1 import hedge_pb2 as pb


class Stream(Protocol):
    """One session on a server. Calls raise Disconnected when the link or the server is gone."""

    @property
    def opened(self) -> pb.Opened | None:
        """What the server said to the opening; it is there before the first verdict is."""
        ...

    async def send(self, draft: pb.Draft) -> None: ...

    async def receive(self) -> pb.Verdict | None:
        """The next verdict; None when the server has ended the stream."""
        ...

    def arrived(self) -> bool:
        """Whether `receive` would return at once."""
        ...

    async def close(self) -> None: ...


class Link(Protocol):
    """A server that can be asked."""

    @property
    def info(self) -> pb.ServerInfo: ...

    @property
    def address(self) -> str:
        """Where it is, for people."""
        ...

    @property
    def connection(self) -> int:
        """The number of the connection there is: sessions share it, and each may lose it."""
        ...

    async def open(self, request: pb.Open) -> Stream:
        """A session, without waiting for the server to say that it is open."""
        ...

    async def reach(self, after: int) -> None:
        """Connects anew, and asks again who answers there, unless a connection later than number
        `after` lives.

        Disconnected when nobody answers.
        """
        ...

    def socket_bytes(self) -> tuple[int, int] | None:
        """Bytes sent and received on the wire so far, None where the platform does not tell."""
        ...
