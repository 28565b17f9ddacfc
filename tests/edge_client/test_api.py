"""What the API does with several answers to one request."""

import asyncio

import pytest

from hedge.common.errors import Busy
from hedge.edge_client.http.api import together


def test_the_first_answer_that_fails_ends_the_others() -> None:
    ended: list[str] = []

    async def goes_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("goes on")

    async def fails() -> None:
        raise Busy("no more are taken")

    async def asked() -> list[str]:
        with pytest.raises(Busy):
            await together([goes_on(), fails(), goes_on()])
        return list(ended)

    assert asyncio.run(asked()) == ["goes on"] * 2
