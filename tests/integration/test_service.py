"""The service behind the API, in this process, over a real cloud."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from hedge.common.loading import load
from hedge.common.model import BUNDLED, LanguageModel
from hedge.common.sampling import Warp
from hedge.edge_client.client import AsyncHedge
from hedge.edge_client.config import CloudConfig, GateConfig, SamplingParams
from hedge.edge_client.systems import SYSTEMS, GenerationConfig
from hedge.edge_client.transport.events import EventKind
from tests.cloud_server.test_session import Broken
from tests.integration.conftest import Cloud

QUESTION = [{"role": "user", "content": "Tell me a tale of a fox."}]


@pytest.fixture(scope="module")
def slm() -> LanguageModel:
    return load(BUNDLED, "slm")


def hedge_of(slm: LanguageModel, cloud: Cloud, config: GenerationConfig) -> AsyncHedge:
    reached = CloudConfig((cloud.address,), insecure=True)
    return AsyncHedge(reached, slm=slm, system=config, wait_for_cloud=True)


def test_a_model_without_numbers_is_no_lost_link(slm: LanguageModel, cloud: Cloud) -> None:
    config = replace(SYSTEMS["hedge"], sampling=SamplingParams(Warp(0.0), seed=1, max_new_tokens=8))

    async def heard() -> list[tuple[bool, bool]]:
        """Of each line: whether it is about the model, and whether the link is held to be alive."""
        lines: list[tuple[bool, bool]] = []
        async with hedge_of(Broken(slm, None, np.nan), cloud, config) as hedge:
            reply = hedge.reply(
                slm.encode_chat(QUESTION),
                config,
                lambda event: lines.append(
                    (event.kind is EventKind.SLM_NOT_FINITE, hedge.watch.up)
                ),
            )
            await reply.session.run()
        return lines

    assert asyncio.run(heard()) == [(True, True)]


def test_a_moving_threshold_belongs_to_its_gate_and_its_temperature(
    slm: LanguageModel, cloud: Cloud
) -> None:
    """Answers at another temperature leave it where it was; answers at its own move it."""
    gate = GateConfig("threshold", threshold=0.3, recalibrate=0.9)
    sampling = SamplingParams(Warp(1.0), seed=1, max_new_tokens=40)
    config = replace(SYSTEMS["cu-hlm"], gate=gate, sampling=sampling)
    ids = slm.encode_chat(QUESTION)

    async def last(*temperatures: float) -> list[str]:
        """Who wrote the last of several answers."""
        async with hedge_of(slm, cloud, config) as hedge:
            for temperature in temperatures:
                changed = replace(config, sampling=replace(sampling, warp=Warp(temperature)))
                reply = hedge.reply(ids, changed)
                await reply.session.run()
            return reply.provenance

    async def found() -> tuple[list[str], list[str], list[str]]:
        return await last(1.0), await last(0.7, 1.0), await last(1.0, 1.0)

    alone, behind_another, behind_its_own = asyncio.run(found())
    assert behind_another == alone
    assert behind_its_own != alone
