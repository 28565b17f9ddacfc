"""The cloud's verifier in this process, behind the edge's own Link: the same code on both sides, without a network."""

from collections import deque

from hedge.v1 import hedge_pb2 as pb

from cloud_server.session import Session, server_info
from common.model import CausalLM


class LocalStream:
    """One session, answered on receive."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.opened = session.prefill()
        self._sent: deque[pb.Draft] = deque()

    async def send(self, draft: pb.Draft) -> None:
        # Through bytes, as the wire would carry it.
        self._sent.append(pb.Draft.FromString(draft.SerializeToString()))

    async def receive(self) -> pb.Verdict | None:
        if self.session.streams:
            return self.session.next_token()
        while self._sent:
            if (verdict := self.session.verify(self._sent.popleft())) is not None:
                return verdict
        return None

    async def close(self) -> None:
        self._sent.clear()


class LocalLink:
    """A server over `lm` that is never out of reach."""

    def __init__(self, lm: CausalLM) -> None:
        self._lm = lm
        self.info = server_info(lm)

    async def open(self, request: pb.Open) -> LocalStream:
        return LocalStream(Session(self._lm, pb.Open.FromString(request.SerializeToString())))

    def socket_bytes(self) -> tuple[int, int] | None:
        return None
