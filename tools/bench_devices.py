"""python -m tools.bench_devices: how many devices one LLM serves at a pace each, on virtual time,
and what bounds it.

Devices of a profile answer the real pair's questions (docs/results/traces.jsonl) one after the
other, each over a link of its own, all from one LLM that takes whatever has come into its next
pass. A number of devices is served when nine of ten have their pace, or when they have it in the
mean. The LLM streaming is computed: one pass a token for everybody. So is the limit of any design:
passes that cost their positions alone, one a token. Python and memory bound nothing here;
`tools.bench_served` measures real streams.
"""

import argparse
import asyncio
from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np

from hedge.edge_client.engine.gates.survival import Survival
from hedge.edge_client.systems import GenerationConfig
from hedge.evaluation.profile import Profile, read_profile
from hedge.evaluation.record import read_journal
from hedge.evaluation.replay import Cloud, Counts, Trace, answered, on_virtual_time
from research.links import configure_hedge, select_traces
from tools.bench_blocks import OUT, line, table

RATES = (10.0, 15.0, 17.5, 20.0)
# Ids of a prompt before answers of 160 tokens.
PROMPTS = (0, 120)
SLACK = 0.95
ROUND_TRIP = 0.05
SEED = 0
# Seconds in which devices begin, and that are measured then.
BEGINNING = 5.0
MEASURED = 8.0


def paces(
    devices: int, traces: Sequence[Trace], config: GenerationConfig, profile: Profile, prompt: int
) -> tuple[list[float], float]:
    """Tokens/s of every device, and the share of the LLM's time that its positions took."""
    rng = np.random.default_rng(SEED)
    cloud = Cloud(profile)
    tokens = [0] * devices

    async def device(which: int, first: int, delay: float) -> None:
        survival = Survival()
        loop = asyncio.get_running_loop()

        def released() -> None:
            tokens[which] += loop.time() >= BEGINNING

        await asyncio.sleep(delay)
        number = first
        while True:
            trace = traces[number % len(traces)]
            await answered(trace, config, cloud, ROUND_TRIP, survival, Counts(), prompt, released)
            number += 1

    async def main() -> None:
        firsts = rng.integers(len(traces), size=devices)
        delays = rng.uniform(0, BEGINNING / 2, devices)
        running = [
            asyncio.create_task(device(n, int(firsts[n]), float(delays[n]))) for n in range(devices)
        ]
        await asyncio.sleep(BEGINNING + MEASURED)
        for task in running:
            if task.done():
                task.result()
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    on_virtual_time(main())
    busy = cloud.positions * profile.llm_position_s / (BEGINNING + MEASURED)
    return [count / MEASURED for count in tokens], busy


def most(keeps_up: Callable[[int], bool], start: int) -> int:
    """The largest number that keeps up, within 3 %."""
    good = 0
    bad = start
    while keeps_up(bad):
        good = bad
        bad = bad * 6 // 5 + 1
    while bad - good > max(1, good // 32):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if keeps_up(middle) else (good, middle)
    return good


def streaming(rate: float, profile: Profile, per_token: float) -> int:
    """Devices that the LLM streams to: llm_s + llm_position_s x positions is a token's time.
    `per_token`: positions.
    """
    return max(0, int((1 / (SLACK * rate) - profile.llm_s) / (profile.llm_position_s * per_token)))


def limit(rate: float, profile: Profile, per_token: float) -> int:
    """Devices whose positions alone fill the LLM's time."""
    return int(1 / (SLACK * rate * profile.llm_position_s * per_token))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="phone")
    parser.add_argument("--prefer", default="balanced")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--prompts", type=int, nargs="+", default=list(PROMPTS))
    args = parser.parse_args()
    profile = read_profile(args.profile)
    config = configure_hedge(args.prefer)
    traces = select_traces(read_journal(OUT, "traces")[1], args.temperature)
    length = sum(len(trace.accepted) for trace in traces) / len(traces)

    @cache
    def measured(devices: int, prompt: int) -> tuple[float, float, float]:
        found, busy = paces(devices, traces, config, profile, prompt)
        return float(np.quantile(found, 0.1)), float(np.mean(found)), busy

    def keeps_up(devices: int, rate: float, prompt: int, which: int) -> bool:
        return measured(devices, prompt)[which] >= SLACK * rate

    counts = (
        "llm",
        "hedge, nine of ten",
        "ratio",
        "hedge, in the mean",
        "ratio",
        "limit of the ratio",
    )
    table("tokens/s each", "prompt ids", *counts, "LLM's time in positions, then")
    for prompt in args.prompts:
        for rate in args.rates:
            per_token = 1 + prompt / length
            streamed = streaming(rate, profile, per_token)
            largest = limit(rate, profile, per_token)
            served = [
                most(partial(keeps_up, rate=rate, prompt=prompt, which=n), max(2, largest // 3))
                for n in (0, 1)
            ]
            ratios = [number / max(1, streamed) for number in (*served, largest)]
            busy = measured(max(1, served[1]), prompt)[2]
            line(
                f"{rate:g}",
                prompt,
                streamed,
                served[0],
                ratios[0],
                served[1],
                ratios[1],
                ratios[2],
                busy,
            )


if __name__ == "__main__":
    main()
