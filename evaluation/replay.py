"""Blocks replayed over recorded answers: what a rule for their ends costs, without a model.

A trace is the LLM's own answer as the SLM sees it: for every position whether the draft that the SLM makes behind the LLM's
tokens is the LLM's token, and the noised log margin of that draft. In coupled mode that is all that an exact answer depends on,
so that a rule can be tried in milliseconds. Behind a rejected draft, where the SLM would go another way, the trace's own
positions stand for it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from edge_client.engine.gates.survival import Survival


@dataclass(frozen=True, slots=True)
class Trace:
    """One answer: [tokens] each."""

    accepted: tuple[bool, ...]
    margin: tuple[float, ...]


class Rule(Protocol):
    """When a block ends; it learns from verdicts."""

    def ends(self, margins: list[float]) -> bool:
        """Whether these drafts are a block."""
        ...

    def judged(self, margin: float, *, accepted: bool) -> None: ...


@dataclass(slots=True)
class SurvivalRule:
    """Policy survival."""

    model: Survival
    threshold: float

    def ends(self, margins: list[float]) -> bool:
        product = 1.0
        for margin in margins:
            product *= self.model.probability(margin)
        return 1.0 - product > self.threshold

    def judged(self, margin: float, *, accepted: bool) -> None:
        self.model.judged(margin, accepted=accepted)


@dataclass(slots=True)
class Counts:
    """Of the LLM's passes, of SLM steps, and of positions that passes judged."""

    tokens: int = 0
    passes: int = 0
    steps: int = 0
    positions: int = 0

    def per_token(self) -> tuple[float, float, float]:
        return self.passes / self.tokens, self.steps / self.tokens, self.positions / self.tokens


def replayed(trace: Trace, rule: Rule, counts: Counts, longest: int = 64) -> None:
    """One answer, one message at a time: a block, its verdict, and the LLM's own token behind it."""
    at, length = 0, len(trace.accepted)
    while at < length:
        drafts: list[float] = []
        while at + len(drafts) < length and len(drafts) < longest:
            drafts.append(trace.margin[at + len(drafts)])
            if rule.ends(drafts):
                break
        kept = next((n for n in range(len(drafts)) if not trace.accepted[at + n]), len(drafts))
        for n in range(min(kept + 1, len(drafts))):
            rule.judged(drafts[n], accepted=n < kept)
        counts.passes += 1
        counts.steps += len(drafts)
        counts.positions += len(drafts) + 1
        at += kept + 1
    counts.tokens += length


def over(traces: Iterable[Trace], rule: Callable[[], Rule], *, carried: bool = True) -> Counts:
    """A rule over answers in their order, what it has learned carried on or not."""
    counts, one = Counts(), rule()
    for trace in traces:
        replayed(trace, one if carried else rule(), counts)
    return counts


def foresight(traces: Iterable[Trace]) -> float:
    """Passes a token of who knows which drafts will stay."""
    traces = list(traces)
    passes = sum(1 for trace in traces for stays in trace.accepted if not stays) + sum(trace.accepted[-1] for trace in traces)
    return passes / sum(len(trace.accepted) for trace in traces)
