"""Kept answers of the real and the bundled pair, a line each, and what a run comes to."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hedge.common.codec import paper_bits
from hedge.common.model import digest
from hedge.evaluation.profile import read_profile
from hedge.evaluation.quality import interval
from hedge.evaluation.record import AnswerRecord, read_journal
from hedge.evaluation.tables import Aggregate, mean, ratio, total
from research.clock import bits_of

Row = dict[str, Any]
Rows = Sequence[Row]
SEED = 1
TASKS = ("gsm8k", "humaneval")
TEMPERATURES = ("0", "0.7", "1")
# Both models on one thread of a CPU each, as tools/bench_rows.py at commit 52ceeaf measured them.
CPU = "cpu"
MEASURED = read_profile(CPU)
SNR_DB = -10.0
BANDWIDTH_HZ = 1e6


def quantile(measure: str, share: float) -> str:
    """cu-hlm with its threshold where so much of the calibration tokens is skipped."""
    return f"cu-hlm:measure={measure},threshold-rule=quantile,skip-rate={share}"


HEDGE = "hedge:max-in-flight=1,threshold=0.4"
# Gated by margin, where the bundled and the real pair skip about as much as the paper says.
PROPOSED = quantile("margin", 0.76)
PAPER_SHARE = quantile("margin", 0.58)
REFERENCE = "hlm"


def condense(answer: AnswerRecord, vocab_size: int, *, with_ids: bool) -> Row:
    """The kept line of an answer: sums over its rounds, and a digest of its tokens."""
    bits = sum(bits_of(round_, "paper", vocab_size, vocab_size) for round_ in answer.log)
    row: Row = {
        "task": answer.task,
        "correct": answer.correct,
        "tokens": len(answer.token_ids),
        "digest": digest(json.dumps(answer.token_ids).encode()),
        "skipped": answer.skipped,
        "audited": answer.audited,
        "risk": round(answer.risk, 6),
        "near_ties": answer.near_ties,
        "steps": answer.steps,
        "rounds": len(answer.log),
        "positions": sum(round_.positions for round_ in answer.log),
        "paper_bytes": bits / 8,
        "messages": sum(round_.uplink_bytes for round_ in answer.log),
        "up": answer.payload_bytes[0],
        "down": answer.payload_bytes[1],
    }
    return row | ({"ids": answer.token_ids, "prompt": answer.prompt_ids} if with_ids else {})


@dataclass(frozen=True)
class Runs:
    """The answers of every run to one task at one temperature, each by its number."""

    vocab_size: int
    answers: dict[str, dict[int, Row]]

    @classmethod
    def read(cls, folder: Path, task: str, temperature: str) -> "Runs | None":
        path = folder / f"{task}-{temperature}.jsonl"
        if not path.exists():
            return None
        header, entries = read_journal(path, "real")
        found: dict[str, dict[int, Row]] = {}
        for entry in entries:
            found.setdefault(entry["run"].rpartition(" #")[0], {})[entry["task"]] = entry
        return cls(int(header["vocab_size"]), found)

    def pair_up(self, name: str) -> list[Row]:
        """A run's answers, each with the LLM's to the same question as `llm`."""
        theirs = self.answers["llm"]
        own = sorted(self.answers.get(name, {}).items())
        return [entry | {"llm": theirs[number]} for number, entry in own if number in theirs]


def time_answer(
    row: Row, snr_db: float = SNR_DB, bandwidth_hz: float = BANDWIDTH_HZ, *, flat: bool = False
) -> float:
    """Seconds on the paper's channel without fading: tau_SLM + bits / C + tau_LLM.

    `flat`, as the paper has it: a pass takes as long as one of one position, however many it has.
    """
    capacity = bandwidth_hz * math.log2(1 + 10 ** (snr_db / 10))
    positions = row["rounds"] if flat else row["positions"]
    passes_s = row["rounds"] * MEASURED.llm_s + positions * MEASURED.llm_position_s
    return float(row["steps"] * MEASURED.slm_s + 8 * row["paper_bytes"] / capacity + passes_s)


def _limit_ratio(rows: Rows) -> tuple[float, float]:
    right = np.array([[row["correct"], row["llm"]["correct"]] for row in rows], dtype=float)
    with np.errstate(invalid="ignore"):
        return interval(right[:, 0], right[:, 1])


def measure_unsent(vocab_size: int) -> Aggregate:
    """The share of the vocabulary that is not sent where a token is."""
    whole = paper_bits(vocab_size, vocab_size) / 8

    def unsent(rows: Rows) -> float:
        sent = max(1, total("tokens")(rows) - total("skipped")(rows))
        return float(1 - total("paper_bytes")(rows) / sent / whole)

    return unsent


# What the answers of a run, paired with the LLM's, come to: shares, and what is per token.
MEASURES: dict[str, Aggregate] = {
    "answers": len,
    "skipped": ratio("skipped", "tokens"),
    "accuracy": mean("correct"),
    "relative": ratio("correct", lambda row: row["llm"]["correct"]),
    "interval": _limit_ratio,
    "risk": ratio("risk", "audited"),
    "up": ratio("messages", "tokens"),
    "passes": ratio("rounds", "tokens"),
    "near_ties": total("near_ties"),
    "same": mean(lambda row: row["digest"] == row["llm"]["digest"]),
    "tokens_per_s": ratio("tokens", time_answer),
    "tokens_per_s_flat": ratio("tokens", lambda row: time_answer(row, flat=True)),
}
