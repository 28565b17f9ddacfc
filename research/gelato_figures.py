"""The figures of `hedge plot gelato`: speed over bandwidth and over the pass, energy beside speed,
and the queue.
"""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from research.figures import _figure, _styles

Entries = Sequence[dict[str, Any]]


def _middle(rows: Entries, name: str) -> float:
    values = sorted({row[name] for row in rows})
    return float(values[len(values) // 2])


def speed(rows: Entries) -> Figure:
    """tokens/s over bandwidth at the middle T_LLM, over T_LLM at the lowest bandwidth, and over
    J/token there.
    """
    figure, (left, middle, right) = _figure(3, 4.4)
    pass_s = _middle(rows, "t_llm")
    lowest = min(row["bandwidth_hz"] for row in rows)
    for name, style in zip(dict.fromkeys(row["system"] for row in rows), _styles(), strict=False):
        mine = [row for row in rows if row["system"] == name]
        by_band = sorted(
            (row["bandwidth_hz"] / 1e6, row["tokens_per_s"])
            for row in mine
            if row["t_llm"] == pass_s
        )
        by_pass = sorted(
            (row["t_llm"] * 1e3, row["tokens_per_s"])
            for row in mine
            if row["bandwidth_hz"] == lowest
        )
        left.plot(*zip(*by_band, strict=True), **style, lw=1, label=name)
        middle.plot(*zip(*by_pass, strict=True), **style, lw=1)
        here = next(row for row in mine if (row["t_llm"], row["bandwidth_hz"]) == (pass_s, lowest))
        right.plot(here["joules_per_token"], here["tokens_per_s"], **style)
    left.set(xlabel="bandwidth, MHz", ylabel="tokens/s", title=f"T_LLM {pass_s * 1e3:g} ms")
    middle.set(xlabel="T_LLM, ms", ylabel="tokens/s", title=f"{lowest / 1e6:g} MHz")
    right.set(
        xlabel="J/token", ylabel="tokens/s", title=f"{lowest / 1e6:g} MHz, {pass_s * 1e3:g} ms"
    )
    figure.legend(fontsize=7, loc="outside lower center", ncols=4)
    return figure


def queue(rows: Entries) -> Figure:
    """Q after each round at the lowest bandwidth and the middle T_LLM; systems without a queue are
    left out.
    """
    figure, (axes,) = _figure(1, 7)
    pass_s = _middle(rows, "t_llm")
    lowest = min(row["bandwidth_hz"] for row in rows)
    mine = [
        row
        for row in rows
        if (row["t_llm"], row["bandwidth_hz"]) == (pass_s, lowest) and row["queue"]
    ]
    for row, style in zip(mine, _styles(), strict=False):
        axes.plot(row["queue"], label=row["system"], lw=1, markevery=40, **style)
    axes.set(
        xlabel="round", ylabel="Q, J", title=f"{lowest / 1e6:g} MHz, T_LLM {pass_s * 1e3:g} ms"
    )
    axes.set_yscale("symlog", linthresh=0.1)
    figure.legend(fontsize=7, loc="outside lower center", ncols=3)
    return figure


FIGURES: dict[str, Callable[[Entries], Figure]] = {"gelato": speed, "gelato-queue": queue}
