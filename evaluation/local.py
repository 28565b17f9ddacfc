"""The cloud's verifier in this process, behind the edge's own Link: the same code on both sides,
without a network.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from hedge.cloud_server.sessions.opening import make_server_info
from hedge.cloud_server.sessions.session import VerifierSession
from hedge.cloud_server.sessions.steps import run_alone
from hedge.common.model import KVCache, LanguageModel
from hedge.edge_client.config import SamplingParams
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import SYSTEMS
from hedge.v1 import hedge_pb2 as pb


class LocalStream:
    """One session, answered on receive. A verdict arrives when it has been looked for `lag` times,
    or is waited for.
    """

    def __init__(self, session: VerifierSession, prefix: KVCache, lag: int = 0) -> None:
        self.session = session
        self._prefix = prefix
        self._lag = lag
        self._looks = 0
        self.opened = run_alone(session.prefill(), prefix)
        self._sent: deque[pb.Draft] = deque()

    async def send(self, draft: pb.Draft) -> None:
        # Through bytes, as the wire would carry it.
        self._sent.append(pb.Draft.FromString(draft.SerializeToString()))

    async def receive(self) -> pb.Verdict | None:
        self._looks = 0
        if self.session.streams:
            return run_alone(self.session.next_token(), self._prefix)
        while self._sent:
            if (
                verdict := run_alone(self.session.verify(self._sent.popleft()), self._prefix)
            ) is not None:
                return verdict
        return None

    def arrived(self) -> bool:
        self._looks += 1
        return bool(self._sent) and self._looks > self._lag

    async def close(self) -> None:
        self._sent.clear()


async def stream_answer(
    slm: LanguageModel, llm: LanguageModel, prompt: Sequence[int], sampling: SamplingParams
) -> list[int]:
    """What the LLM streams."""
    session = Session(slm, prompt, replace(SYSTEMS["llm"], sampling=sampling), LocalLink(llm))
    return [emitted.token async for emitted in session.tokens()]


class LocalLink:
    """A server over `lm` that is never out of reach; `lag` as in its streams, `difference` as in
    its sessions.
    """

    address = "this process"

    def __init__(self, lm: LanguageModel, lag: int = 0, difference: float = 0.0) -> None:
        self._lm = lm
        self._lag = lag
        self._difference = difference
        self.connection = 1
        self.info = make_server_info(lm)

    async def open(self, request: pb.Open) -> LocalStream:
        prefix = self._lm.kv_cache()
        opened = pb.Open.FromString(request.SerializeToString())
        session = VerifierSession(self._lm, opened, prefix, difference=self._difference)
        return LocalStream(session, prefix, self._lag)

    async def reach(self, after: int) -> None: ...

    def socket_bytes(self) -> tuple[int, int] | None:
        return None
