"""python -m tools.bench_front: verdicts/s of the cloud's gRPC front alone, one core, over an engine
that computes nothing.

64 streams in a process of their own send blocks of 6 ids, each when the verdict on the one before
is in. The engine finds every draft likely, and tells as many of the likeliest tokens as it is asked
for. Where the clients are slower than the server, only the verdicts a second of its processor say
what it can.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache

import grpc.aio
import numpy as np

from hedge.cloud_server.serving.limits import Limits
from hedge.cloud_server.serving.metrics import Metrics
from hedge.cloud_server.serving.servicer import ErrorInterceptor, Servicer
from hedge.cloud_server.sessions.certificate import Top
from hedge.cloud_server.sessions.scoring import Scored, ScoringRunner
from hedge.cloud_server.sessions.steps import Draws
from hedge.common.model import BUNDLED, LanguageModel, load
from hedge.common.rpc import make_server
from hedge.v1.hedge_pb2_grpc import add_HedgeServicer_to_server
from tools.raw_session import RawSession

STREAMS = 64
BLOCK = 6
SECONDS = 10.0
PROMPT = 20
# A session ends before its context does.
MESSAGES = 100


class Nothing:
    """A Scorer without a model: the id that follows is the likeliest token, with logprobs that fall
    by 1.
    """

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    @lru_cache  # noqa: B019
    def _top(self, token: int, count: int) -> Top:
        ids = np.sort((token + np.arange(count)) % self._vocab_size)
        ranks = (ids - token) % self._vocab_size
        logprobs = (-0.1 - 3.0 * ranks).astype(np.float32)
        return Top(ids, logprobs, float(logprobs.min()))

    async def score(self, ids: Sequence[int], rows: int, count: int | None) -> Scored:
        wanted = count or self._vocab_size
        return Scored(
            [self._top(token, wanted) for token in [*ids[len(ids) - rows + 1 :], 7][-rows:]]
            if rows
            else []
        )

    def stream(
        self, ids: Sequence[int], draws: Draws, limit: int, count: int
    ) -> AsyncGenerator[tuple[int, Top], None]:
        raise NotImplementedError(f"{limit} tokens behind {len(ids)}, {count} by {draws}")


@asynccontextmanager
async def served(lm: LanguageModel) -> AsyncGenerator[str]:
    """Yields HOST:PORT."""
    servicer = Servicer(
        lm, ScoringRunner(Nothing(lm.vocab_size), lm.vocab_size, lm.context - 1, 1), Limits()
    )
    server = make_server(
        lambda made: add_HedgeServicer_to_server(servicer, made), [ErrorInterceptor(Metrics())]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(grace=None)


async def ask(address: str, temperature: float) -> None:
    """The clients: counts verdicts for a while."""
    lm = load(BUNDLED, "slm")
    done = 0
    until = time.perf_counter() + SECONDS

    async def one(channel: grpc.aio.Channel) -> None:
        nonlocal done
        while time.perf_counter() < until:
            session = RawSession(channel, lm)
            await session.open(range(PROMPT), temperature)
            for _ in range(MESSAGES):
                await session.draft([7] * BLOCK)
                done += 1
                if time.perf_counter() > until:
                    break
            await session.close()

    async with grpc.aio.insecure_channel(address) as channel:
        started = time.perf_counter()
        await asyncio.gather(*(one(channel) for _ in range(STREAMS)))
        sys.stdout.write(f"{done} {time.perf_counter() - started}\n")


async def measure() -> None:
    lm = load(BUNDLED, "llm")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {0})
    sys.stdout.write(
        "| temperature | verdicts/s | verdicts a second of the server's processor |\n|---:|---:|---:|\n"
    )
    sys.stdout.flush()
    async with served(lm) as address:
        for temperature in ("0", "1"):
            command = [
                sys.executable,
                "-m",
                "tools.bench_front",
                "--ask",
                address,
                "--temperature",
                temperature,
            ]
            busy = time.process_time()
            client = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            told, _ = await client.communicate()
            done, seconds = map(float, told.split())
            busy = time.process_time() - busy
            sys.stdout.write(f"| {temperature} | {done / seconds:.0f} | {done / busy:.0f} |\n")
            sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    parser.add_argument("--temperature", type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ask:
        os.sched_setaffinity(0, set(range(os.cpu_count() or 1)) - {0} or {0})
        asyncio.run(ask(args.ask, args.temperature))
    else:
        asyncio.run(measure())


if __name__ == "__main__":
    main()
