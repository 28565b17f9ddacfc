"""The link emulator, by counted bytes and virtual time."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.common.errors import BadInput
from hedge.evaluation.link import CHUNK, Pipe, Relay, parse_outages

SECONDS = st.floats(0, 50)


def test_a_message_takes_its_airtime_and_the_delay() -> None:
    pipe = Pipe(rate=1e6, delay=0.05)
    assert pipe.arrival(1250, 2.0) == pytest.approx(2.0 + 0.01 + 0.05)
    # The second waits for the first one's airtime, not for its delay.
    assert pipe.arrival(1250, 2.001) == pytest.approx(2.0 + 0.02 + 0.05)
    assert pipe.arrival(0, 9.0) == pytest.approx(9.05)
    assert pipe.bytes == 2500


def test_nothing_is_sent_in_an_outage() -> None:
    pipe = Pipe(rate=8e3, delay=0.0, outages=[(1.0, 3.0), (4.0, 5.0)])
    # Half a second before the first outage, one between the two, half after the second.
    assert pipe.arrival(2000, 0.5) == pytest.approx(5.5)
    assert Pipe(rate=0.0, delay=0.1, outages=[(1.0, 3.0)]).arrival(10, 2.0) == pytest.approx(3.1)


@given(
    st.lists(st.tuples(SECONDS, st.integers(0, 5000)), max_size=30),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_order_is_kept_and_the_rate_is_never_exceeded(
    sends: list[tuple[float, int]], jitter: float, seed: int
) -> None:
    pipe = Pipe(1e5, 0.02, jitter, [(3.0, 4.0), (10.0, 30.0)], np.random.default_rng(seed))
    arrivals = []
    sent = 0
    for now, size in sorted(sends):
        arrivals.append(pipe.arrival(size, now))
        sent += size
        assert arrivals[-1] >= now + 0.02
        assert pipe.free_at >= 8 * sent / 1e5 * (1 - 1e-12)
    assert arrivals == sorted(arrivals)
    assert pipe.bytes == sent


@pytest.mark.parametrize(
    "words", [["3"], ["a:b"], ["1:0"], ["-1:2"], ["5:2", "6:1"], ["nan:1"], ["1:inf"]]
)
def test_bad_outages_are_named(words: list[str]) -> None:
    with pytest.raises(BadInput, match="outage"):
        parse_outages(words)


def test_every_byte_comes_through_and_is_counted() -> None:
    data = bytes(range(256)) * 300
    up = Pipe(rate=1e8, delay=0.001)
    down = Pipe(rate=0.0, delay=0.0, jitter=0.0005)

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard = await reader.readexactly(len(data))
        writer.write(heard.swapcase())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def run() -> bytes:
        far = await asyncio.start_server(shout, "127.0.0.1", 0)
        relay = Relay(far.sockets[0].getsockname()[:2], up, down)
        near = await relay.serve("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*near.sockets[0].getsockname()[:2])
        writer.write(data)
        answer = await reader.read(-1)
        writer.close()
        await writer.wait_closed()
        await relay.finish()
        near.close()
        far.close()
        await far.wait_closed()
        return answer

    assert asyncio.run(run()) == data.swapcase()
    assert up.bytes == down.bytes == len(data)
    # In virtual time the last byte left no earlier than the rate allows.
    assert up.free_at >= 8 * len(data) / 1e8
    assert len(data) > 10 * CHUNK
