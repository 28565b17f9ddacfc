"""The way to the cloud as the session sees it: a stream of Drafts and Verdicts. Imports no grpc."""

from typing import Protocol

from hedge.v1 import hedge_pb2 as pb


class Stream(Protocol):
    """One session on a server."""

    opened: pb.Opened

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

    info: pb.ServerInfo

    async def open(self, request: pb.Open) -> Stream: ...

    def socket_bytes(self) -> tuple[int, int] | None:
        """Bytes sent and received on the wire so far, None where the platform does not tell."""
        ...
