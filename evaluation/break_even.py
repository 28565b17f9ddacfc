"""When hedge is faster than the LLM's own stream: what a pair does on a few answers, and from that
on links of any length.

Without overlap a token takes s t_SLM + p (r + T_verify) seconds, where s are SLM steps and p
verdicts a token, and r is the round trip (the closed form of Lyu et al., arXiv 2606.25091, with s
and p in place of draft length and acceptance). The stream takes T_LLM, so that hedge is ahead below
r* = (T_LLM - s t_SLM) / p - T_verify. But hedge drafts on while messages are under way, and its
blocks follow the link; so what is expected is found by replaying the device's own loop on virtual
time.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean, median

from hedge.common.coupling import decide_race
from hedge.common.model import LanguageModel
from hedge.common.noise import Noise, Purpose
from hedge.common.sampling import Warp, gap
from hedge.edge_client.config import SamplingParams
from hedge.edge_client.engine.session import Session
from hedge.edge_client.systems import SYSTEMS, GenerationConfig
from hedge.edge_client.transport.link import Link
from hedge.evaluation.profile import Profile
from hedge.evaluation.replay import Counts, Trace, replay_traces

# Of an answer that is asked for here.
TOKENS = 128
# Round trips, in seconds: none is looked for beyond the last, nor more closely than this.
LONGEST = 2.0
CLOSE = 0.0005
_ROWS = 64
# A margin beyond this says no more.
_LARGEST = 50.0


def no_overlap(steps: float, passes: float, slm_s: float, llm_s: float, verify_s: float) -> float:
    """r* in seconds, of steps and passes a token; below 0 where even no round trip at all is too
    long.
    """
    return (llm_s - steps * slm_s) / passes - verify_s


@dataclass(frozen=True, slots=True)
class PairSample:
    """The LLM's answers as the SLM reads them, and what steps and passes take."""

    traces: list[Trace]
    profile: Profile

    def over(self, round_trip: float, config: GenerationConfig | None = None) -> Counts:
        """What hedge makes of them over such a link."""
        return replay_traces(self.traces, config or SYSTEMS["hedge"], self.profile, round_trip)

    def break_even(self, config: GenerationConfig | None = None) -> float | None:
        """Seconds there and back below which hedge is faster than the stream. None: never;
        infinite: beyond LONGEST too.
        """
        if self.over(0.0, config).speed <= 1:
            return None
        if self.over(LONGEST, config).speed > 1:
            return float("inf")
        low = 0.0
        high = LONGEST
        while high - low > CLOSE:
            middle = (low + high) / 2
            low, high = (middle, high) if self.over(middle, config).speed > 1 else (low, middle)
        return low


def trace_answer(
    slm: LanguageModel, prompt: list[int], answer: list[int], warp: Warp, seed: int
) -> dict[str, list[float]]:
    """What the SLM makes of the LLM's answer: of each token whether its draft is the same, and the
    margin of that draft.
    """
    noise = Noise(seed, prompt)
    cache = slm.kv_cache()
    fed = [*prompt, *answer[:-1]]
    if len(prompt) > 1:
        cache.forward(fed[: len(prompt) - 1], 0)
    accepted: list[float] = []
    margins: list[float] = []
    for first in range(0, len(answer), _ROWS):
        rows = cache.forward(fed[len(prompt) - 1 + first : len(prompt) - 1 + first + _ROWS])
        for position, logits in enumerate(rows, first):
            if warp.greedy:
                draft = int(logits.argmax())
                margin = gap(logits)
            else:
                draft, margin = decide_race(
                    warp(logits), noise.integers(Purpose.TARGET, position, 0, len(logits))
                )
            accepted.append(int(draft == answer[position]))
            margins.append(round(min(margin, _LARGEST), 3))
    return {"accepted": accepted, "margin": margins}


async def sample_pair(
    slm: LanguageModel,
    link: Link,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParams,
    slm_s: float,
    slm_position_s: float,
) -> PairSample:
    """Asks the cloud for each answer twice: streamed, and in hedge's blocks. `slm_s` and
    `slm_position_s` as in Profile.

    BadInput and what else a session may raise.
    """
    sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, TOKENS))
    loop = asyncio.get_running_loop()
    traces = []
    gaps = []
    streamed = []
    verified = []
    overhead = []
    for prompt in prompts:
        stream = Session(slm, prompt, replace(SYSTEMS["llm"], sampling=sampling), link)
        arrived = [loop.time() async for _ in stream.tokens()]
        gaps += [later - earlier for earlier, later in pairwise(arrived)]
        streamed += [round_.forward_s for round_ in stream.statistics.log[1:]]
        found = trace_answer(slm, list(prompt), stream.token_ids, sampling.warp, sampling.seed)
        traces.append(Trace(tuple(map(bool, found["accepted"])), tuple(found["margin"])))
        blocks = Session(slm, prompt, replace(SYSTEMS["hedge"], sampling=sampling), link)
        await blocks.run()
        statistics = blocks.statistics
        verified += [
            (round_.positions, round_.forward_s)
            for round_ in statistics.log[1:]
            if round_.positions
        ]
        if statistics.steps:
            overhead.append((statistics.gate_s + statistics.codec_s) / statistics.steps)
    llm_s, position_s = _pass_times(streamed, verified)
    # What the cloud adds to a pass of its own, it adds to every verdict too.
    added = max(0.0, median(gaps) - llm_s - position_s) if gaps else 0.0
    profile = Profile(
        "sampled",
        slm_s + (fmean(overhead) if overhead else 0.0),
        llm_s + added,
        position_s,
        slm_position_s,
    )
    return PairSample([trace for trace in traces if trace.accepted], profile)


def _pass_times(
    streamed: Sequence[float], verified: Sequence[tuple[int, float]]
) -> tuple[float, float]:
    """Seconds of a pass, and of each of its positions: through the median of one position, and the
    mean of the longer ones.
    """
    one = median(streamed) if streamed else 0.0
    longer = [(positions, seconds) for positions, seconds in verified if positions > 1]
    if not longer or not streamed:
        return one, 0.0
    positions = fmean(count for count, _ in longer)
    seconds = fmean(took for _, took in longer)
    position_s = max(0.0, (seconds - one) / (positions - 1))
    return max(0.0, one - position_s), min(position_s, one)
