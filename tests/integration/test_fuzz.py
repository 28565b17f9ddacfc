"""Hostile messages (`make soak`: 100,000) against a real server: a proper status for each,
honest clients unharmed.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import numpy as np
import pytest

from hedge.common import codec
from hedge.common.distribution import Quantised
from hedge.common.ids import ADAPTIVE, AdaptiveIds
from hedge.common.loading import load
from hedge.common.model import LanguageModel
from hedge.edge_client.engine.session import Session
from hedge.edge_client.transport.grpc_link import GrpcLink, GrpcStream
from hedge.evaluation.local import LocalLink
from hedge.v1 import hedge_pb2 as pb
from tests.cloud_server.test_session import PROMPT, opening
from tests.configs import changed, config_of
from tests.conftest import MakeFolder
from tests.effort import scaled
from tests.integration.conftest import StartCloud

MESSAGES = int(os.environ.get("HEDGE_HOSTILE", str(scaled(20_000))))
AT_ONCE = 32
HONEST = config_of(policy="always", draft_from="sent", max_new_tokens=40, k=3)
PROPER = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.OK}


def mutated(rng: np.random.Generator, data: bytes) -> bytes:
    """Bytes flipped, cut, repeated or appended."""
    broken = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, len(broken) + 1))
        match int(rng.integers(4)):
            case 0 if at < len(broken):
                broken[at] ^= int(rng.integers(1, 256))
            case 1:
                del broken[at:]
            case 2:
                broken[at:at] = broken[:at][-8:]
            case _:
                broken += rng.bytes(int(rng.integers(1, 12)))
    return bytes(broken)


def hostile(rng: np.random.Generator, honest_open: bytes) -> list[bytes]:
    """One stream of hostile messages."""
    probs = Quantised(12, 8, np.array([1, 4, 7]), np.array([100, 50, 6]))
    payload = codec.encode(probs)
    kind = int(rng.integers(7))
    if kind == 0:
        return [rng.bytes(int(rng.integers(0, 200)))]
    if kind == 1:
        return [mutated(rng, honest_open)]
    if kind == 2:
        return [pb.ClientMessage(draft=pb.Draft()).SerializeToString()]
    coded = AdaptiveIds(12).encode(PROMPT, [1, 2, 4])
    draft = pb.Draft(ids=coded, untested=2, proposals=[payload])
    if kind == 3:
        draft.proposals[0] = mutated(rng, payload)
    elif kind == 4:
        draft.proposals[0] = rng.bytes(int(rng.integers(0, 400)))
    elif kind == 5:
        draft.ids = (
            mutated(rng, coded) if rng.random() < 0.5 else rng.bytes(int(rng.integers(0, 400)))
        )
        draft.untested = (
            int(rng.integers(0, 6)) if rng.random() < 0.9 else int(rng.integers(0, 2**32))
        )
        if rng.random() < 0.3:
            draft.position = int(rng.integers(0, 2**32))
            draft.step_id = int(rng.integers(0, 2**63))
            draft.verdicts_seen = int(rng.integers(0, 3))
    message = pb.ClientMessage(draft=draft).SerializeToString()
    if kind == 6:
        return [honest_open, mutated(rng, message)]
    return [honest_open, message]


class Overheard(GrpcLink):
    """An honest device's link, whose session ids the hostile clients know."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.ids: list[str] = []

    async def open(self, request: pb.Open) -> GrpcStream:
        self.ids.append(request.session_id)
        return await super().open(request)


@pytest.mark.statistics
def test_the_server_survives_hostile_messages(
    start_cloud: StartCloud, make_folder: MakeFolder
) -> None:
    folder = str(make_folder(seed=3))
    server = start_cloud("--llm", folder, "--threads", "1")
    lm = load(folder, "llm")
    ways = (pb.VERIFICATION_SPARSE, pb.VERIFICATION_SPLIT, pb.VERIFICATION_COUPLED)

    def opened(number: int, session_id: str) -> bytes:
        way = ways[number % len(ways)]
        request = opening(lm, verification=way, bits=8, id_codecs=[ADAPTIVE], session_id=session_id)
        return pb.ClientMessage(open=request).SerializeToString()

    seen: Counter[grpc.StatusCode] = Counter()

    async def one(stub: Any, stream: list[bytes]) -> None:
        async def requests() -> AsyncIterator[bytes]:
            for message in stream:
                yield message

        call = stub(requests())
        try:
            async for _ in call:
                pass
        except grpc.aio.AioRpcError:
            pass
        seen[await call.code()] += 1

    async def attack() -> int:
        rng = np.random.default_rng(0)
        sent = 0
        served = 0
        answers = set[asyncio.Task[None]]()
        async with (
            grpc.aio.insecure_channel(server.address) as channel,
            Overheard(server.address) as overheard,
        ):
            stub = channel.stream_stream("/hedge.v1.Hedge/Generate")
            while sent < MESSAGES:
                # Those of the honest session that is open at the same time.
                names = ["", *overheard.ids[-1:]]
                streams = [hostile(rng, opened(i, names[i % len(names)])) for i in range(AT_ONCE)]
                sent += sum(map(len, streams))
                # An answer lasts through several waves of the attack.
                if all(answer.done() for answer in answers):
                    await asyncio.gather(*answers)
                    answers = {asyncio.create_task(honest(lm, overheard, served))}
                    served += 1
                await asyncio.gather(*(one(stub, stream) for stream in streams))
            await asyncio.gather(*answers)
        return served

    assert asyncio.run(attack()) > 1
    assert set(seen) <= PROPER, seen
    assert seen[grpc.StatusCode.INVALID_ARGUMENT] > MESSAGES / 4
    asyncio.run(nothing_is_left(server.address))


async def honest(lm: LanguageModel, link: Overheard, seed: int) -> None:
    """An answer beside the attack: the one that a server of its own would have given."""
    settings = changed(HONEST, seed=seed)
    session = Session(lm, PROMPT, settings, link)
    await session.run()
    alone = Session(lm, PROMPT, settings, LocalLink(lm))
    assert session.token_ids == [emitted.token async for emitted in alone.tokens()]


async def nothing_is_left(address: str) -> None:
    async with GrpcLink(address) as link:
        assert (link.info.open_sessions, link.info.cached_tokens) == (0, 0)
