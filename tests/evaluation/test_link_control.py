"""A link that is cut and slowed while it carries."""

import asyncio
import json
from typing import Any

import pytest

from hedge.common.errors import BadInput
from hedge.evaluation.link import Pipe, Relay


def test_what_a_link_can_be_set_to() -> None:
    relay = Relay(("127.0.0.1", 1), Pipe(0.0, 0.0), Pipe(0.0, 0.0))
    assert relay.change({"delay": 0.2, "rate": 1e5}) == {
        "cut": False,
        "delay": 0.2,
        "rate": 1e5,
        "up": 0,
        "down": 0,
    }
    assert (relay.down.delay, relay.down.rate) == (0.2, 0.0)
    for wrong in ({"delay": -1}, {"rate": float("nan")}, {"cut": 1}, {"colour": 2}):
        with pytest.raises(BadInput, match="nothing a link can be set to"):
            relay.change(dict(wrong))


def test_a_cut_ends_what_is_carried_and_refuses_what_comes() -> None:
    async def scenario() -> tuple[bytes, bytes, bytes, dict[str, Any]]:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(100):
                writer.write(data)
            writer.close()

        far = await asyncio.start_server(echo, "127.0.0.1", 0)
        relay = Relay(far.sockets[0].getsockname()[:2], Pipe(0.0, 0.0), Pipe(0.0, 0.0))
        server = await relay.serve("127.0.0.1", 0)
        control = await asyncio.start_server(relay.control, "127.0.0.1", 0)
        told, say = await asyncio.open_connection(*control.sockets[0].getsockname()[:2])

        async def order(line: bytes) -> dict[str, Any]:
            say.write(line + b"\n")
            return dict(json.loads(await told.readline()))

        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(b"before")
        before = await reader.readexactly(6)
        assert (await order(b'{"cut": true}'))["cut"] is True
        ended = await reader.read()
        refused, late = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        nothing = await refused.read()
        assert "error" in await order(b"nonsense")
        state = await order(b'{"cut": false}')
        again, after = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        after.write(b"after")
        assert await again.readexactly(5) == b"after"
        for one in (say, writer, late, after):
            one.close()
        for one in (server, control, far):
            one.close()
        await relay.finish()
        return before, ended, nothing, state

    before, ended, nothing, state = asyncio.run(scenario())
    assert (before, ended, nothing) == (b"before", b"", b"")
    assert state["cut"] is False
    assert state["up"] >= 6
