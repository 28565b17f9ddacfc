"""What a study came to: a row per SNR and system, with what the adaptive rules gain over it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedge.evaluation import tables
from hedge.evaluation.tables import Column, first, tabulate
from research.wireless.packet import position_bits
from research.wireless.rules import REHEARSED, RULES

RESAMPLES = 2000
ADAPTIVE = tuple(f"adaptive, {rule}" for rule in (*RULES, REHEARSED))
BASELINES = ("ml", "receiver only", "random", "parallel", "sequential", "huffman + ldpc")
METRICS = ("accuracy", "similarity")
Row = dict[str, Any]


def _limit(values: NDArray[np.float64]) -> list[float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return [float(low), float(high)]


@dataclass(frozen=True)
class Setting:
    """The packets of a constellation and SNR that every system has seen: entries by system."""

    entries: dict[str, list[Row]]
    picked: NDArray[np.int64]

    @classmethod
    def of(cls, lines: Sequence[Row], qam: int, snr: float, length: int) -> "Setting":
        found: dict[str, dict[int, Row]] = {}
        for line in lines:
            for entry in line["entries"]:
                if (line["qam"], entry["snr_db"]) == (qam, snr):
                    more = {"accuracy": entry["right"] / length}
                    found.setdefault(entry["system"], {})[line["packet"]] = entry | more
        numbers = sorted(set.intersection(*map(set, found.values())))
        picked = np.random.default_rng(0).integers(0, len(numbers), (RESAMPLES, len(numbers)))
        return cls({name: [one[n] for n in numbers] for name, one in found.items()}, picked)

    def values(self, system: str, name: str) -> NDArray[np.float64]:
        return np.array([entry[name] for entry in self.entries[system]], dtype=float)

    def compare(self, system: str, metric: str) -> Row:
        """Over ML, and what the adaptive rules gain; the paired bootstrap's 95 % intervals."""
        found = self.values(system, metric)
        ml = self.values("ml", metric)
        with np.errstate(divide="ignore", invalid="ignore"):
            times = found[self.picked].mean(axis=1) / ml[self.picked].mean(axis=1)
            row = {f"{metric} times ml": [float(found.mean() / ml.mean()), *_limit(times)]}
        for rule in ADAPTIVE:
            gain = self.values(rule, metric) - found
            limits = _limit(gain[self.picked].mean(axis=1))
            row[f"{metric} gain of {rule}"] = [float(gain.mean()), *limits]
        return row


def summarise(lines: Sequence[Row], length: int) -> list[Row]:
    """Of journal lines, each a packet of `length` tokens: the means per system, and comparisons."""
    rows = []
    for qam, snr in sorted({(line["qam"], e["snr_db"]) for line in lines for e in line["entries"]}):
        setting = Setting.of(lines, qam, snr, length)
        metrics = [name for name in METRICS if name in setting.entries["ml"][0]]
        for system, entries in setting.entries.items():
            row: Row = {"qam": qam, "snr_db": snr, "system": system, "packets": len(entries)}
            for name in ("chrf", "uses", *metrics):
                row[name] = float(setting.values(system, name).mean())
            masked = setting.values(system, "masked")
            row["masked"] = float(masked.mean()) / length
            row["position_bits"] = float(np.mean([position_bits(length, int(n)) for n in masked]))
            for metric in metrics:
                row |= setting.compare(system, metric)
            rows.append(row)
    return rows


def show(rows: Sequence[Row]) -> None:
    columns = [
        Column("QAM", first("qam")),
        Column("SNR, dB", first("snr_db"), "g"),
        Column("system", first("system")),
        Column("accuracy", first("accuracy"), ".3f"),
        Column("chrF", first("chrf"), ".1f"),
        Column("similarity", first(lambda row: row.get("similarity")), ".3f"),
        Column("masked", first("masked"), ".2f"),
    ]
    for rule in ADAPTIVE:
        gain = first(f"accuracy gain of {rule}")
        columns.append(
            Column(f"gain of {rule}", gain, lambda g: "{:+.3f} ({:+.3f} to {:+.3f})".format(*g))
        )
    title = f"token accuracy, {rows[0]['packets']} packets; "
    title += "gain of the adaptive rules with 95 % intervals"
    tables.show(tabulate(rows, (id,), columns), title, left=(2,))
