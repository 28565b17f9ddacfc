"""The rows of `hedge simulate`: every run replayed on every channel."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np

from hedge.edge_client.systems import GenerationConfig
from hedge.evaluation import tables
from hedge.evaluation.quality import interval
from hedge.evaluation.record import AnswerRecord, Journal
from hedge.evaluation.tables import Column, first, tabulate
from research.channel import Channel, open_uplink
from research.clock import Clock, Times, bits_of, fit_times, replay
from research.harness import complete

POINT = ("run", "bandwidth_hz", "snr_db", "fading", "coherence_s", "outage", "account", "vocab")
KEY = (*POINT, "tau_slm", "tau_llm", "tau_llm_position")
Row = dict[str, Any]


def measure_times(runs: Iterable[Sequence[AnswerRecord]]) -> Times:
    """One pair of times for all systems, so that they differ only in what they do."""
    answers = list(chain.from_iterable(runs))
    steps = [answer.slm_s / answer.steps for answer in answers if answer.steps]
    return fit_times(steps, chain.from_iterable(answer.log for answer in answers))


@dataclass(frozen=True)
class Sweep:
    """Runs with their answers, and how time and bits are counted, as if |V| were `accounted`."""

    runs: Mapping[str, GenerationConfig]
    answers: Mapping[str, Sequence[AnswerRecord]]
    times: Times
    account: str
    vocab_size: int
    accounted: int

    def complete(self, journal: Journal, channels: Iterable[Channel]) -> list[Row]:
        """Appends the rows that are missing; returns those of these channels."""
        taus = (self.times.slm, self.times.llm, self.times.llm_position)
        wanted = {}
        for channel in channels:
            for run in self.runs:
                point = (run, *asdict(channel).values(), self.account, self.accounted, *taus)
                wanted[point] = (point, run, channel)
        return complete(journal, KEY, wanted, self._compute, "clock")

    def _compute(self, left: Iterable[tuple[tuple[Any, ...], str, Channel]]) -> Iterator[Row]:
        for point, run, channel in left:
            yield dict(zip(KEY, point, strict=True)) | self.replay(run, channel)

    def replay(self, run: str, channel: Channel) -> Row:
        """Throughput with its 95 % interval over answers, and what the channel does not change."""
        config = self.runs[run]
        answers = self.answers[run]
        seconds = []
        sent = 0.0
        for answer in answers:
            rng = np.random.default_rng([config.sampling.seed, answer.task])
            clock = Clock(self.times, open_uplink(channel, rng))
            bits = [
                bits_of(one, self.account, self.vocab_size, self.accounted) for one in answer.log
            ]
            seconds.append(replay(clock, answer.log, bits, answer.steps))
            sent += sum(bits)
        tokens = np.array([len(answer.token_ids) for answer in answers], dtype=float)
        low, high = interval(tokens, np.array(seconds))
        judged = [answer.correct for answer in answers if answer.correct is not None]
        audited = sum(answer.audited for answer in answers)
        return {
            "system": config.system,
            "measure": config.gate.measure,
            "threshold": config.to_json()["threshold"],
            "seed": config.sampling.seed,
            "temperature": config.sampling.warp.temperature,
            "answers": len(answers),
            "tokens": int(tokens.sum()),
            "tokens_per_s": float(tokens.sum() / sum(seconds)),
            "low": low,
            "high": high,
            "uplink_bytes_per_token": sent / 8 / float(tokens.sum()),
            "share_skipped": sum(answer.skipped for answer in answers) / float(tokens.sum()),
            "exact_match": sum(judged) / len(judged) if judged else None,
            "risk": sum(answer.risk for answer in answers) / audited if audited else None,
        }


def _name_channel(row: Row) -> str:
    fading = "" if row["fading"] == "none" else f" {row['fading']}"
    return f"{row['snr_db']:g} dB {row['bandwidth_hz'] / 1e6:g} MHz{fading}"


def show(rows: Sequence[Row]) -> None:
    """What each run is, and its tokens/s on every channel."""
    names = dict.fromkeys(row["run"] for row in rows)
    numbers = {name: f"[{number}]" for number, name in enumerate(names, 1)}
    about = [
        Column("", first("run"), numbers.__getitem__),
        Column("run", first("run")),
        Column("skipped", first("share_skipped"), ".1%"),
        Column("exact match", first("exact_match"), ".1%"),
        Column("bytes/token", first("uplink_bytes_per_token"), ".4g"),
    ]
    title = f"uplink by the {rows[-1]['account']} account, |V| = {rows[-1]['vocab']}"
    tables.show(tabulate(rows, ("run",), about), title, left=(1,))
    speeds = [Column("channel", first(_name_channel))]
    for name, number in numbers.items():

        def find(mine: Sequence[Row], name: str = name) -> float | None:
            return next((row["tokens_per_s"] for row in mine if row["run"] == name), None)

        speeds.append(Column(number, find, ".3g"))
    tables.show(tabulate(rows, (_name_channel,), speeds), "tokens/s", left=())
