"""python -m research.benches.cloud [--soak SECONDS]: many devices on one cloud, as ratios within
one run.

The server has one torch thread, the devices are one other process, and the bare forward runs in
this one while both are idle.
"""

import argparse
import asyncio
import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from hedge.common.model import BUNDLED
from hedge.common.model_options import ModelOptions
from hedge.common.torch_model import TorchModel, load_folder
from hedge.evaluation.loadtest import batches
from hedge.evaluation.processes import BIN, free_port, run_cloud
from research.benches.bare import time_bare_forward

SECONDS = 20.0
MANY = 32
HELD = 200
PREFIX = 50


def played(
    cloud: str, http: str, devices: int, seconds: float, think: float = 0.0
) -> dict[str, Any]:
    command = [
        str(BIN / "hedge-cloud"),
        "loadtest",
        "--cloud",
        cloud,
        "--http",
        http,
        "--devices",
        str(devices),
    ]
    done = subprocess.run(
        [*command, "--seconds", str(seconds), "--think", str(think)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def compared(name: str, found: dict[str, Any], lm: TorchModel) -> tuple[float, float]:
    """Positions/s of the server and of the bare forward over as many sessions and positions as its
    passes had.
    """
    rows = max(1, round(found["sessions_per_pass"]))
    new = max(1, round(found["positions_per_pass"] / found["sessions_per_pass"]))
    plain = time_bare_forward(lm, rows, new)
    print(
        f"{name}: {found['positions_per_s']:.0f} positions/s, {found['tokens_per_s']:.0f} "
        "tokens/s; "
        f"bare forward of {rows} x {new}: {plain:.0f} positions/s; ratio "
        f"{found['positions_per_s'] / plain:.2f}; "
        f"in the forward {found['forward_share']:.2f} of the time; verdict {found['verdict_ms']}"
    )
    return found["positions_per_s"], plain


def bars(cloud: str, http: str, lm: TorchModel) -> None:
    one = played(cloud, http, 1, SECONDS)
    many = played(cloud, http, MANY, SECONDS)
    alone = compared("1 session", one, lm)
    together = compared(f"{MANY} sessions", many, lm)
    print(f"batches: {many['batches']}")
    gain = together[0] / alone[0]
    possible = together[1] / alone[1]
    print(
        f"gain over one session {gain:.2f}, of the bare forward {possible:.2f}; ratio "
        f"{gain / possible:.2f}"
    )
    print(f"p99 over median latency: {many['verdict_ms']['p99'] / many['verdict_ms']['p50']:.2f}")
    held = played(cloud, http, HELD, SECONDS, think=1.0)
    print(
        f"{HELD} streams: {held['errors']} errors, {held['throttled']} throttled, verdict "
        f"{held['verdict_ms']}"
    )


async def soak(cloud: str, http: str, seconds: float) -> None:
    """RSS of the server under load, sampled through its own metrics."""
    playing = asyncio.create_task(asyncio.to_thread(played, cloud, http, MANY, seconds, 0.05))
    samples: list[tuple[float, float]] = []
    started = time.perf_counter()
    while not playing.done():
        await asyncio.sleep(5)
        samples.append(
            (
                time.perf_counter() - started,
                (await asyncio.to_thread(batches, http))["process_resident_memory_bytes"],
            )
        )
    at, rss = np.array(samples).T
    warm = rss[at > 60]
    late = at > seconds / 2
    slope = np.polyfit(at[late], rss[late], 1)[0] * seconds / 2 / rss[late].mean()
    result = await playing
    print(
        f"soak of {seconds:g} s: {result['verdicts']} verdicts, {result['errors']} errors; RSS "
        f"{rss[0] / 1e6:.0f} MB, "
        f"after a minute {warm[0] / 1e6:.0f}, at the end {rss[-1] / 1e6:.0f} "
        f"({rss[-1] / warm[0] - 1:+.1%}); "
        f"trend over the last half {slope:+.2%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--soak",
        type=float,
        default=0.0,
        help="seconds under load, with an eye on memory, instead of the bars",
    )
    args = parser.parse_args()
    lm = load_folder(BUNDLED, "llm", ModelOptions(threads=1))
    http = f"127.0.0.1:{free_port()}"
    with run_cloud("--threads", "1", "--no-prefix-sharing", "--http", http) as cloud:
        run: Callable[[], None] = (
            (lambda: asyncio.run(soak(cloud, http, args.soak)))
            if args.soak
            else lambda: bars(cloud, http, lm)
        )
        run()


if __name__ == "__main__":
    main()
