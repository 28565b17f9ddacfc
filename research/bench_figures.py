"""The figures of `hedge plot bench`: who wins where, what it costs, and who waited for whom."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hedge.evaluation.bench_rows import cell_name, find_winner, group_cells, make_rows, read_point
from research.drawing import Entries, shorten

_SHADES = {"step": "0.75", "message": "0.45", "pass": "0.1"}
_TIMELINES = 5
IN_THE_CLOUD = ("colocated", "assisted")


def draw_winners(entries: Entries) -> Figure:
    """The fastest system over rate and round trip that keeps 99 % of the LLM's accuracy.

    A row of panels with all systems, one without a draft model in the cloud; a column a profile.
    """
    found = {
        where: systems
        for where, systems in group_cells(make_rows(entries)).items()
        if where[3] == "none"
    }
    profiles = list(dict.fromkeys(where[0] for where in found))
    rates = sorted({where[1] for where in found})
    trips = sorted({where[2] for where in found})
    figure = Figure(
        figsize=(1.8 + 1.7 * len(trips) * len(profiles), 2 * (1.3 + 0.6 * len(rates))),
        layout="constrained",
    )
    for row, left_out in enumerate((("slm",), ("slm", *IN_THE_CLOUD))):
        for number, profile in enumerate(profiles):
            axes = figure.add_subplot(2, len(profiles), row * len(profiles) + number + 1)
            mine = {
                (rates.index(rate), trips.index(trip)): {
                    name: one for name, one in systems.items() if name not in left_out
                }
                for (name, rate, trip, _), systems in found.items()
                if name == profile
            }
            _draw_winners(axes, mine, (len(rates), len(trips)))
            what = "all systems" if row == 0 else "without a draft model in the cloud"
            axes.set(
                xticks=range(len(trips)),
                xticklabels=[f"{trip * 1e3:g}" for trip in trips],
                xlabel="round trip, ms",
                yticks=range(len(rates)),
                yticklabels=[f"{rate / 1e6:g}" for rate in rates],
                ylabel="uplink, Mbit/s",
                title=f"{profile}: {what}",
            )
    return figure


def _draw_winners(
    axes: Axes, systems: dict[tuple[int, int], dict[str, Any]], shape: tuple[int, int]
) -> None:
    speeds = np.full(shape, np.nan)
    for at, rows in systems.items():
        best = find_winner(rows)
        speeds[at] = rows[best]["tokens_per_s"] if best in rows else np.nan
        label = f"{shorten(best)}\n{speeds[at]:.0f}"
        axes.text(
            at[1],
            at[0],
            label,
            ha="center",
            va="center",
            fontsize=7,
            bbox={"fc": "white", "ec": "none", "pad": 1},
        )
    axes.imshow(speeds, cmap="Greys", aspect="auto", alpha=0.6)


def draw_bars(entries: Entries) -> Figure:
    """Of the cell in the middle: tokens/s with intervals, cloud seconds, bytes up."""
    by_cell = group_cells(make_rows(entries))
    where = _find_middle(entries)
    systems = by_cell[where]
    names = [shorten(name) for name in systems]
    at = np.arange(len(systems))
    figure = Figure(figsize=(13.0, 0.9 + 0.36 * len(names)), layout="constrained")
    figure.suptitle(cell_name(where), fontsize=9)
    labels = {"tokens_per_s": "tokens/s", "cloud_s": "cloud seconds/token", "up": "bytes up/token"}
    for number, (key, label) in enumerate(labels.items()):
        axes = figure.add_subplot(1, 3, number + 1)
        values = np.array([row[key] or 0.0 for row in systems.values()])
        spread = None
        if key == "tokens_per_s":
            limits = np.array([[row["low"], row["high"]] for row in systems.values()]).T
            spread = np.abs(limits - values)
        axes.barh(at, values, color="0.7", edgecolor="black", xerr=spread)
        axes.set(yticks=at, yticklabels=names if not number else [], xlabel=label)
        axes.set_xscale("symlog" if key == "up" else "linear")
        axes.invert_yaxis()
    return figure


def draw_timeline(entries: Entries) -> Figure:
    """One answer: the device's steps, messages until their verdicts, passes, released tokens."""
    where = _find_middle(entries)
    mine = [entry for entry in entries if read_point(entry) == where and entry["timeline"]]
    chosen = sorted(mine, key=lambda entry: entry["released"][-1])[-_TIMELINES:]
    figure = Figure(figsize=(10.0, 1.1 * len(chosen) + 0.9), layout="constrained")
    end = max(entry["released"][-1] for entry in chosen)
    for number, entry in enumerate(chosen):
        axes = figure.add_subplot(len(chosen), 1, number + 1)
        _draw_lanes(axes, entry)
        axes.set(
            xlim=(0, end * 1.02),
            ylim=(-0.6, 3.4),
            yticks=range(4),
            ylabel=shorten(entry["system"]).split(":")[0],
        )
        axes.set_yticklabels(["released", "pass", "message", "SLM step"], fontsize=6)
        if number < len(chosen) - 1:
            axes.set_xticklabels([])
    axes.set_xlabel(f"seconds since the question; {cell_name(where)}")
    return figure


def _draw_lanes(axes: Axes, entry: dict[str, Any]) -> None:
    lanes = {"pass": 1, "message": 2, "step": 3}
    for number, (what, begin, stop) in enumerate(entry["timeline"]):
        height = 0.3 if what == "message" else 0.7
        shift = 0.16 * (number % 3 - 1) if what == "message" else 0.0
        axes.barh(
            lanes[what] + shift,
            stop - begin,
            height,
            left=begin,
            color=_SHADES[what],
            edgecolor="white",
            linewidth=0.3,
        )
    axes.plot(entry["released"], np.zeros(len(entry["released"])), "k|", markersize=7)


def _find_middle(entries: Entries) -> tuple[Any, ...]:
    """The cell without outage whose rate and round trip are in the middle of those there are."""
    plain = sorted(
        {read_point(entry) for entry in entries if entry["outage"] == "none"},
        key=lambda where: (where[1], where[2]),
    )
    rates = sorted({where[1] for where in plain})
    trips = sorted({where[2] for where in plain})
    middle = rates[len(rates) // 2], trips[len(trips) // 2]
    return next(where for where in plain if where[1:3] == middle)


FIGURES: dict[str, Callable[[Any], Figure]] = {
    "bench-winners": draw_winners,
    "bench-bars": draw_bars,
    "bench-timeline": draw_timeline,
}
