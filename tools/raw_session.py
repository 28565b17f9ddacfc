"""A session of the wire contract without a device behind it: what benches of the cloud alone send."""

from collections.abc import Sequence

import grpc.aio

from hedge.common import codec
from hedge.common.ids import FIXED, FixedIds
from hedge.common.model import LanguageModel
from hedge.common.rpc import PROTOCOL_VERSION
from hedge.v1 import hedge_pb2 as pb
from hedge.v1.hedge_pb2_grpc import HedgeStub


class RawSession:
    """One stream. `draft` sends ids behind what the server holds, and waits for the verdict."""

    def __init__(self, channel: grpc.aio.Channel, lm: LanguageModel) -> None:
        self._lm = lm
        self._ids = FixedIds(lm.vocab_size)
        self._call = HedgeStub(channel).Generate()

    async def open(self, prompt: Sequence[int], temperature: float, stream: int = 0) -> None:
        """`stream`: so many tokens of the LLM's own, in place of drafts."""
        request = pb.Open(
            protocol_version=PROTOCOL_VERSION,
            prompt_ids=prompt,
            warp=pb.Warp(temperature=temperature, top_p=1.0),
            seed=1,
            verification=pb.VERIFICATION_STREAM if stream else pb.VERIFICATION_COUPLED,
            guarantee=pb.GUARANTEE_EXACT,
            tokenizer_fingerprint=self._lm.tokenizer_fingerprint,
            vocab_size=self._lm.vocab_size,
            codecs=codec.VERSIONS,
            id_codecs=[FIXED],
            bonus=True,
            max_new_tokens=stream,
        )
        await self._call.write(pb.ClientMessage(open=request))
        await self._call.read()

    async def draft(self, ids: Sequence[int]) -> pb.Verdict:
        await self._call.write(pb.ClientMessage(draft=pb.Draft(ids=self._ids.encode([], ids))))
        return await self.verdict()

    async def verdict(self) -> pb.Verdict:
        message = await self._call.read()
        assert isinstance(message, pb.ServerMessage)
        return message.verdict

    async def close(self) -> None:
        await self._call.done_writing()
        await self._call.read()
