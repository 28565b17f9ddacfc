"""Streams that stay open bring a second replica: needs hedge-hlm[ray], `make test-ray` runs it."""

import asyncio

import grpc.aio

from hedge.common.loading import load
from hedge.v1 import hedge_pb2 as pb
from hedge.v1.hedge_pb2_grpc import HedgeStub
from tests.cloud_server.test_session import drafting, opening
from tests.conftest import MakeFolder
from tests.ray.test_ray import deployed, replicas


def test_replicas_are_added_as_streams_are(make_folder: MakeFolder) -> None:
    folder = str(make_folder(seed=2))
    lm = load(folder, "llm")

    async def second_replica(address: str) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            streams = [HedgeStub(channel).Generate() for _ in range(6)]
            for stream in streams:
                await stream.write(pb.ClientMessage(open=opening(lm)))
                assert (await stream.read()).WhichOneof("kind") == "opened"
            # Another process comes up: Ray looks at the streams every few seconds, and wants to see
            # them for half a minute.
            while len(replicas()) < 2:  # noqa: ASYNC110
                await asyncio.sleep(1)
            for stream in streams:
                await stream.write(pb.ClientMessage(draft=drafting([1])))
                assert (await stream.read()).WhichOneof("kind") == "verdict"

    with deployed("--llm", folder, "--max-replicas", "2", "--streams-per-replica", "3") as address:
        assert len(replicas()) == 1
        asyncio.run(asyncio.wait_for(second_replica(address), 150))
