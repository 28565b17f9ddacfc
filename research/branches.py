"""python -m research.branches: what drafting on under the runner-up would gain on a slow link,
replayed with the bundled pair.

Under the shared noise the LLM's answer is known beforehand, whatever is drafted. The device is
replayed step by step on a virtual clock: it drafts with the real SLM, on every path that it holds
open, as the rows of one batch; a block leaves where the gate fires; its verdict comes a round trip
later. What is not a branch of the tree costs the stall it costs today.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hedge.common.coupling import race_times
from hedge.common.model import BUNDLED, LanguageModel, bundled_folder
from hedge.common.model_options import ModelOptions
from hedge.common.noise import Noise, Purpose
from hedge.common.sampling import Warp, descending
from hedge.common.torch_model import load_folder
from hedge.edge_client.calibrations import load_calibration
from hedge.edge_client.config import SamplingParams
from hedge.edge_client.engine.gates.measures import MEASURES
from hedge.evaluation.local import own_answer
from hedge.evaluation.tasks import tasks
from research.bare import bare

QUESTIONS = 48
SEED = 1
ROUND_TRIP = 0.1
STEP = 0.0033
PASS = 0.008
ROWS = (1, 2, 3, 4, 6, 8)
MAX_BLOCK = 16
IN_FLIGHT = 8
SURVIVAL = 0.05
# Of the tokens that end no block.
SKIP_RATE = 0.85
# What the device believes of a first choice without and with the gate, and of the first and second
# runner-up.
SURE = 0.97
ASKED = 0.7
RUNNERS_UP = (0.15, 0.06)

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Choices:
    """The SLM's own order of tokens at a position, the best three, and whether the gate fires
    there.
    """

    tokens: list[int]
    asked: bool


class Device:
    """The SLM of one answer: its choices after any path, each computed once."""

    def __init__(self, slm: LanguageModel, prompt: list[int], warp: Warp, threshold: float) -> None:
        self._prefix = slm.kv_cache()
        self._prompt = prompt
        self._warp = warp
        self._threshold = threshold
        self._noise = Noise(SEED, prompt)
        self._known = dict[Path, Choices]()
        self._fed = list[int]()

    def choices(self, path: Path) -> Choices:
        if path not in self._known:
            ids = [*self._prompt, *path]
            same = next(
                (at for at, (a, b) in enumerate(zip(ids, self._fed, strict=False)) if a != b),
                len(self._fed),
            )
            self._prefix.rollback(min(same, len(ids) - 1, self._prefix.length))
            logits = self._prefix.forward(ids[self._prefix.length :], 1)[0]
            self._fed = ids
            probs = self._warp(logits)
            # At temperature 0 the noise decides nothing, and the next-best is the next-best logit.
            integers = self._noise.integers(Purpose.TARGET, len(path), 0, len(probs))
            order = (
                -race_times(probs, integers)
                if self._warp.temperature
                else logits.astype(np.float64)
            )
            asked = (
                MEASURES["expected_perturbation"].of(logits, probs, -1, np.empty(0))
                > self._threshold
            )
            self._known[path] = Choices([int(token) for token in descending(order)[:3]], asked)
        return self._known[path]


@dataclass(slots=True)
class Replay:
    """One answer. `runners_up` per asked position, at most `rows` paths in a step, which then costs
    `step_s`.
    """

    device: Device
    truth: Sequence[int]
    runners_up: int
    rows: int
    step_s: float
    now: float = 0.0
    # Paths to draft on, and how likely each is; when the token that ends a path left the device.
    leaves: dict[Path, float] = field(default_factory=lambda: {(): 1.0})
    sent: dict[Path, float] = field(default_factory=dict)
    drafted: dict[Path, list[Path]] = field(default_factory=dict)
    final: int = 0

    def seconds(self) -> float:
        while self.final < len(self.truth):
            open_paths = sorted(
                (path for path in self.leaves if self._goes_on(path)), key=lambda p: -self.leaves[p]
            )
            if open_paths:
                self.now += self.step_s
                for path in open_paths[: self.rows]:
                    self._draft(path)
            else:
                self.now = self._arrival() or self.now
            while (at := self._arrival()) is not None and at <= self.now:
                self._judge()
        return self.now

    def _goes_on(self, path: Path) -> bool:
        waiting = {
            self.sent[path[: end + 1]]
            for end in range(self.final, len(path))
            if path[: end + 1] in self.sent
        }
        return self.leaves[path] >= SURVIVAL and len(waiting) < IN_FLIGHT

    def _draft(self, path: Path) -> None:
        believed = self.leaves.pop(path)
        choices = self.device.choices(path)
        shares = (ASKED, *RUNNERS_UP[: self.runners_up]) if choices.asked else (SURE,)
        self.drafted[path] = [
            (*path, token) for token, _ in zip(choices.tokens, shares, strict=False)
        ]
        for share, child in zip(shares, self.drafted[path], strict=True):
            # The last token of the answer is its end token, or the limit.
            if len(child) < len(self.truth):
                self.leaves[child] = believed * share
        unsent = [
            path[:end]
            for end in range(self.final + 1, len(path) + 1)
            if path[:end] not in self.sent
        ]
        if choices.asked or len(path) + 1 == len(self.truth) or len(unsent) + 1 >= MAX_BLOCK:
            for one in [*unsent, *self.drafted[path]]:
                self.sent.setdefault(one, self.now)

    def _arrival(self) -> float | None:
        """When the verdict on the next position comes; None while it is not on its way."""
        children = self.drafted.get(tuple(self.truth[: self.final]), [])
        return (
            self.sent[children[0]] + ROUND_TRIP + PASS
            if children and children[0] in self.sent
            else None
        )

    def _judge(self) -> None:
        known = tuple(self.truth[: self.final + 1])
        branch = known in self.drafted[known[:-1]]
        self.final += 1
        self.leaves = {path: p for path, p in self.leaves.items() if path[: self.final] == known}
        if not branch:
            self.leaves = {known: 1.0}
        elif self.leaves and (best := max(self.leaves.values())):
            self.leaves = {path: p / best for path, p in self.leaves.items()}


def answers(
    slm: LanguageModel, llm: LanguageModel, warp: Warp, threshold: float
) -> list[tuple[Device, list[int]]]:
    """The LLM's answers, and a device each."""
    found = []
    sampling = SamplingParams(warp.temperature, warp.top_k, warp.top_p, SEED)
    for task in tasks(None, QUESTIONS, 0):
        prompt = slm.encode_chat(task.prompt.messages)
        truth = asyncio.run(own_answer(slm, llm, prompt, sampling))
        found.append((Device(slm, prompt, warp, threshold), truth))
    return found


def main() -> None:
    slm, llm = (load_folder(BUNDLED, side, ModelOptions(threads=1)) for side in ("slm", "llm"))
    alone = bare(slm, 1, 1)
    # A batch of rows over the rate of one: how much longer a step over them takes.
    costs = {rows: max(1.0, rows * alone / bare(slm, rows, 1)) for rows in ROWS}
    sys.stdout.write(
        f"a step over {list(costs)} rows takes {[round(cost, 2) for cost in costs.values()]} times as long\n"
    )
    for path in sorted(bundled_folder().glob("calibration*.json")):
        calibration = load_calibration(path)
        threshold = calibration.threshold(
            "expected_perturbation", "quantile", max_risk=0.05, delta=0.1, skip_rate=SKIP_RATE
        )
        recorded = answers(slm, llm, calibration.warp, threshold or 0.0)
        tokens = sum(len(truth) for _, truth in recorded)

        def total(runners_up: int, rows: int, cost: float, recorded: list[Any] = recorded) -> float:
            return sum(
                Replay(device, truth, runners_up, rows, STEP * cost).seconds()
                for device, truth in recorded
            )

        plain = total(0, 1, 1.0)
        sys.stdout.write(
            f"temperature {calibration.warp.temperature:g}: without branches {tokens / plain:.1f} tokens/s\n"
        )
        for runners_up in (1, 2):
            for rows in ROWS[1:]:
                gains = [plain / total(runners_up, rows, cost) for cost in (costs[rows], 1.0)]
                found = f"{gains[0]:.2f} times as fast; {gains[1]:.2f} if rows were free"
                sys.stdout.write(f"  {runners_up} of them, {rows} rows: {found}\n")


if __name__ == "__main__":
    main()
