"""python -m tools.branches: what drafting on under the runner-up would gain on a slow link, replayed over recorded answers.

The LLM's answer under the shared noise is known, so is the rank that the SLM's law gives each of its tokens, and so is the
gate. On a virtual clock the edge drafts ahead, a message leaves at every asked position, and a mismatch costs a round trip
unless it was a branch. Branches are unlimited in number here and never wrong otherwise: an upper bound, but for the rows.
"""

import asyncio
import sys
from dataclasses import dataclass

import numpy as np

from common.coupling import race_times
from common.model import BUNDLED, CausalLM, bundled_folder, load, use_threads
from common.noise import Noise, Purpose
from common.sampling import Warp
from edge_client.calibration import load_calibration
from edge_client.measures import MEASURES
from edge_client.session import Session
from edge_client.settings import Settings
from evaluation.local import LocalLink
from evaluation.tasks import tasks
from tools.bench_cloud import bare
from tools.bench_link import SEED

QUESTIONS, SKIP_RATE = 48, 0.85
ROUND_TRIP, STEP, PASS = 0.1, 0.0033, 0.008
# How much longer a step over all the rows takes than over one; what it is here is printed.
ROWS = (1.0, 1.15, 1.3)


@dataclass(frozen=True, slots=True)
class Position:
    """Rank of the LLM's token in the SLM's race (0: they agree), and whether the gate fired."""

    rank: int
    asked: bool


async def answered(slm: CausalLM, prompt: list[int], settings: Settings, link: LocalLink) -> list[int]:
    return [emitted.token async for emitted in Session(slm, prompt, settings, link).tokens()]


def recorded(slm: CausalLM, llm: CausalLM, temperature: float, threshold: float) -> list[list[Position]]:
    warp, measure = Warp(temperature), MEASURES["expected_perturbation"]
    found = []
    for task in tasks(None, QUESTIONS, 0):
        prompt = slm.encode_chat(task.prompt.messages)
        ids = asyncio.run(answered(slm, prompt, Settings(policy="stream", warp=warp, seed=SEED), LocalLink(llm)))
        noise, positions = Noise(SEED, prompt), []
        rows = slm.prefix().forward([*prompt, *ids[:-1]], len(ids))
        for at, (token, logits) in enumerate(zip(ids, rows, strict=True)):
            law = warp(logits)
            # At temperature 0 the noise decides nothing, and the next-best is the next-best logit.
            times = race_times(law, noise.integers(Purpose.TARGET, at, 0, len(law))) if temperature else -logits
            rank = int((times < times[token]).sum())
            positions.append(Position(rank, measure.of(logits, law, -1, np.empty(0)) > threshold))
        found.append(positions)
    return found


def seconds(positions: list[Position], runners_up: int, rows: float) -> float:
    """One answer on the virtual clock; a mismatch of rank up to `runners_up` at an asked position costs no stall."""
    now = 0.0
    for number, position in enumerate(positions):
        now += STEP * (rows if runners_up else 1.0)
        covered = position.asked and position.rank <= runners_up
        last = number == len(positions) - 1
        if last or (position.rank and not covered):
            # The message leaves where the gate fires next on the wrong path: at once, in the best case.
            now += ROUND_TRIP + PASS
    return now


def main() -> None:
    use_threads(1)
    slm, llm = load(BUNDLED, "slm"), load(BUNDLED, "llm")
    steps = [count / bare(slm, count, 1) for count in (1, 2, 3)]
    costs = " and ".join(f"{step / steps[0]:.2f}" for step in steps[1:])
    sys.stdout.write(f"a forward pass of the SLM over 2 and 3 rows takes {costs} times as long as over 1\n")
    for path in sorted(bundled_folder().glob("calibration*.json")):
        calibration = load_calibration(path)
        threshold = calibration.threshold("expected_perturbation", "quantile", max_risk=0.05, delta=0.1, skip_rate=SKIP_RATE)
        answers = recorded(slm, llm, calibration.warp.temperature, threshold or 0.0)
        every = [position for positions in answers for position in positions]
        wrong = [position for position in every if position.rank]
        sys.stdout.write(
            f"temperature {calibration.warp.temperature:g}: {len(every)} tokens, {len(wrong)} mismatches; at asked positions "
            f"{sum(p.asked for p in wrong)}, of these the runner-up {sum(p.asked and p.rank == 1 for p in wrong)}, "
            f"one of two {sum(p.asked and p.rank <= 2 for p in wrong)}\n"
        )
        plain = sum(seconds(positions, 0, 1.0) for positions in answers)
        for runners_up in (1, 2):
            for rows in ROWS:
                ratio = plain / sum(seconds(positions, runners_up, rows) for positions in answers)
                sys.stdout.write(f"  {runners_up} branches, step times {rows:g}: {ratio:.2f} times as fast\n")


if __name__ == "__main__":
    main()
