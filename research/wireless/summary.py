"""What a study came to: a row per SNR and system, with what the adaptive rules gain over it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from hedge.evaluation.tables import wide
from research.wireless.packet import position_bits
from research.wireless.rules import REHEARSED, RULES

RESAMPLES = 2000
ADAPTIVE = tuple(f"adaptive, {rule}" for rule in (*RULES, REHEARSED))
BASELINES = ("ml", "receiver only", "random", "parallel", "sequential", "huffman + ldpc")
METRICS = ("accuracy", "similarity")


def _interval(values: NDArray[np.float64]) -> list[float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return [float(low), float(high)]


def summary(lines: Sequence[dict[str, Any]], length: int) -> list[dict[str, Any]]:
    """Of journal lines, each a packet of `length` tokens: the means per system, and per metric
    `gain of RULE` over it and `times ml`, each with the paired bootstrap's 95 % interval. Only
    packets that every system has seen count.
    """
    rows = []
    for qam, snr in sorted(
        {(line["qam"], entry["snr_db"]) for line in lines for entry in line["entries"]}
    ):
        table: dict[str, dict[int, dict[str, Any]]] = {}
        for line in lines:
            for entry in line["entries"]:
                if (line["qam"], entry["snr_db"]) == (qam, snr):
                    table.setdefault(entry["system"], {})[line["packet"]] = entry | {
                        "accuracy": entry["right"] / length
                    }
        numbers = sorted(set.intersection(*(set(one) for one in table.values())))
        picked = np.random.default_rng(0).integers(0, len(numbers), (RESAMPLES, len(numbers)))

        def values(
            system: str, name: str, table: Any = table, numbers: Any = numbers
        ) -> NDArray[np.float64]:
            return np.array([table[system][number][name] for number in numbers], dtype=float)

        metrics = [name for name in METRICS if name in table["ml"][numbers[0]]]
        for system in table:
            row: dict[str, Any] = {
                "qam": qam,
                "snr_db": snr,
                "system": system,
                "packets": len(numbers),
            }
            row |= {name: float(values(system, name).mean()) for name in ("chrf", "uses", *metrics)}
            row["masked"] = float(values(system, "masked").mean()) / length
            row["position_bits"] = float(
                np.mean([position_bits(length, int(n)) for n in values(system, "masked")])
            )
            for metric in metrics:
                found = values(system, metric)
                ml = values("ml", metric)
                with np.errstate(divide="ignore", invalid="ignore"):
                    times = found[picked].mean(axis=1) / ml[picked].mean(axis=1)
                    row[f"{metric} times ml"] = [float(found.mean() / ml.mean()), *_interval(times)]
                for rule in ADAPTIVE:
                    gain = values(rule, metric) - found
                    row[f"{metric} gain of {rule}"] = [
                        float(gain.mean()),
                        *_interval(gain[picked].mean(axis=1)),
                    ]
            rows.append(row)
    return rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(
        title=f"token accuracy, {rows[0]['packets']} packets; gain of the adaptive rules with 95 % intervals"
    )
    headings = (
        "QAM",
        "SNR, dB",
        "system",
        "accuracy",
        "chrF",
        "similarity",
        "masked",
        *(f"gain of {rule}" for rule in ADAPTIVE),
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "system" else "right")
    for row in rows:
        gains = [row[f"accuracy gain of {rule}"] for rule in ADAPTIVE]
        similarity = f"{row['similarity']:.3f}" if "similarity" in row else "-"
        table.add_row(
            str(row["qam"]),
            f"{row['snr_db']:g}",
            row["system"],
            f"{row['accuracy']:.3f}",
            f"{row['chrf']:.1f}",
            similarity,
            f"{row['masked']:.2f}",
            *(f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" for mean, low, high in gains),
        )
    wide().print(table)
