"""hedge link: a TCP relay that behaves like a slow link, so that real gRPC frames cross one: rate,
delay, jitter, outages.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hedge.common import signals
from hedge.common.command import command_parser, parse
from hedge.common.errors import BadInput, HedgeError
from hedge.common.rpc import split_address

CHUNK = 2048
QUEUED = 64
EXAMPLES = """  hedge link --listen 127.0.0.1:7500 --to 127.0.0.1:7411 --rate 1e6 --delay 0.05
  hedge link --listen 127.0.0.1:7500 --to 127.0.0.1:7411 --delay 0.05 --outage 10:3 30:5"""

Outage = tuple[float, float]


@dataclass(slots=True)
class Pipe:
    """One direction: what is handed over at a time arrives at a time. Seconds since the link came
    up; bytes are counted.

    `rate` in bit/s, 0 for no limit; `jitter` is the largest addition to `delay`, uniform, and never
    reorders. In an outage [start, end) nothing is sent.
    """

    rate: float
    delay: float
    jitter: float = 0.0
    outages: Sequence[Outage] = ()
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    bytes: int = 0
    free_at: float = 0.0
    last: float = 0.0

    def arrival(self, size: int, now: float) -> float:
        """When the last of `size` bytes that are handed over at `now` comes out."""
        self.bytes += size
        self.free_at = self._sent(
            max(now, self.free_at), 8 * size / self.rate if self.rate else 0.0
        )
        self.last = max(
            self.last, self.free_at + self.delay + self.jitter * float(self.rng.random())
        )
        return self.last

    def _sent(self, start: float, needed: float) -> float:
        """The end of `needed` seconds of sending from `start` on, outages left out."""
        for begin, end in self.outages:
            if start < end:
                if start + needed <= begin:
                    break
                needed -= max(0.0, begin - start)
                start = end
        return start + needed


def parse_outages(words: Sequence[str]) -> list[Outage]:
    """START:LENGTH in seconds, in order and apart."""
    found: list[Outage] = []
    for word in words:
        start, mark, length = word.partition(":")
        try:
            begin = float(start)
            lasts = float(length)
        except ValueError:
            begin = lasts = -1.0
        if (
            not mark
            or not 0 <= begin < float("inf")
            or not 0 < lasts < float("inf")
            or (found and begin < found[-1][1])
        ):
            raise BadInput(f"outage {word!r} is not START:LENGTH in seconds, after the one before")
        found.append((begin, begin + lasts))
    return found


class Relay:
    """Accepts connections and carries them to `to` through one Pipe each way, which all of them
    share.
    """

    def __init__(self, to: tuple[str, int], up: Pipe, down: Pipe) -> None:
        self._to = to
        self.up = up
        self.down = down
        self._started = 0.0
        self._carrying: set[asyncio.Task[None]] = set()
        self.cut = False

    def _now(self) -> float:
        return asyncio.get_running_loop().time() - self._started

    async def serve(self, host: str, port: int) -> asyncio.Server:
        self._started = asyncio.get_running_loop().time()
        return await asyncio.start_server(self._carry, host, port)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._carrying.add(task)
        ends = [writer]
        try:
            if self.cut:
                return
            far_reader, far_writer = await asyncio.open_connection(*self._to)
            ends.append(far_writer)
            await asyncio.gather(
                self._pump(reader, far_writer, self.up), self._pump(far_reader, writer, self.down)
            )
        except OSError:
            # Nothing listens there: this end is closed too.
            pass
        finally:
            for end in ends:
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()
            self._carrying.discard(task)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pipe: Pipe
    ) -> None:
        """Carries one direction to its end; the end arrives like everything else."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED)

        async def deliver() -> None:
            while True:
                at, data = await queue.get()
                await asyncio.sleep(at - self._now())
                if not data:
                    writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()

        delivering = asyncio.create_task(deliver())
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(CHUNK):
                    await queue.put((pipe.arrival(len(data), self._now()), data))
            await queue.put((pipe.arrival(0, self._now()), b""))
            with contextlib.suppress(OSError):
                await delivering
        finally:
            delivering.cancel()

    def change(self, wanted: dict[str, object]) -> dict[str, object]:
        """Sets `cut` (connections end, and none is made), `delay` and `rate` (of the uplink); the
        state after that.
        """
        for name, value in wanted.items():
            if name == "cut" and isinstance(value, bool):
                self.cut = value
            elif (
                name in ("delay", "rate")
                and isinstance(value, int | float)
                and 0 <= value < float("inf")
            ):
                for pipe in (self.up, self.down) if name == "delay" else (self.up,):
                    setattr(pipe, name, float(value))
            else:
                raise BadInput(f"{name} {value!r} is nothing a link can be set to")
        if self.cut:
            for task in self._carrying:
                task.cancel()
        return {
            "cut": self.cut,
            "delay": self.up.delay,
            "rate": self.up.rate,
            "up": self.up.bytes,
            "down": self.down.bytes,
        }

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One JSON object a line, answered with the state."""
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                try:
                    answer = self.change(dict(json.loads(line)))
                except (ValueError, TypeError, BadInput) as error:
                    answer = {"error": str(error)}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def finish(self) -> None:
        """Returns when no connection is left."""
        await asyncio.gather(*self._carrying, return_exceptions=True)


def command(arguments: Sequence[str]) -> None:
    parser = command_parser(
        "hedge link", "Relays TCP like a slow link; when ended it prints what it carried.", EXAMPLES
    )
    parser.add_argument(
        "--listen", required=True, metavar="HOST:PORT", help="port 0 picks a free one"
    )
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument(
        "--rate", type=float, default=0.0, metavar="BIT/S", help="of the uplink (default: no limit)"
    )
    parser.add_argument(
        "--down-rate",
        type=float,
        default=0.0,
        metavar="BIT/S",
        help="of the downlink (default: no limit)",
    )
    parser.add_argument("--delay", type=float, default=0.0, metavar="S", help="one way (default 0)")
    parser.add_argument(
        "--jitter",
        type=float,
        default=0.0,
        metavar="S",
        help="up to so much more, uniform (default 0)",
    )
    parser.add_argument(
        "--outage",
        nargs="+",
        default=[],
        metavar="START:LENGTH",
        help="seconds in which nothing is sent",
    )
    parser.add_argument(
        "--control", metavar="HOST:PORT", help='takes {"cut": true} and the like, a line each'
    )
    parser.add_argument("--seed", type=int, default=0, help="of the jitter")
    args = parse(parser, arguments)
    for name in ("rate", "down_rate", "delay", "jitter", "seed"):
        if not 0 <= getattr(args, name) < float("inf"):
            raise BadInput(
                f"{name.replace('_', '-')} {getattr(args, name):g} is not a number of at least 0"
            )
    outages = parse_outages(args.outage)
    to = split_address(args.to)
    up, down = (
        Pipe(rate, args.delay, args.jitter, outages, np.random.default_rng([args.seed, way]))
        for way, rate in enumerate((args.rate, args.down_rate))
    )
    control = split_address(args.control) if args.control else None
    asyncio.run(_relay(Relay(to, up, down), *split_address(args.listen, lowest_port=0), control))


async def _relay(relay: Relay, host: str, port: int, control: tuple[str, int] | None) -> None:
    try:
        server = await relay.serve(host, port)
        if control:
            await asyncio.start_server(relay.control, *control)
    except OSError as error:
        raise HedgeError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    bound = server.sockets[0].getsockname()[1]
    sys.stderr.write(f"hedge link: listening on {host}:{bound}\n")
    sys.stderr.flush()
    await signals.wait_for_stop()
    server.close()
    sys.stdout.write(
        json.dumps({"uplink_bytes": relay.up.bytes, "downlink_bytes": relay.down.bytes}) + "\n"
    )
