"""python -m research.results.pictures: the pictures of README.md and docs/results from kept rows.

In grey, legible at 400 px.
"""

import json
import re
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hedge.evaluation.profile import read_profile
from hedge.evaluation.record import read_journal
from hedge.evaluation.replay import Trace, replay_traces
from hedge.evaluation.tables import aggregate
from research.links import configure_hedge
from research.results.exactness import count_agreements
from research.results.pages import RESULTS
from research.results.real_rows import MEASURES
from research.results.real_tables import read_headline, read_tasks
from research.results.runs import PLOTS
from research.results.token_strip import draw_strip

PAPER = (0.748, 0.974)
# Inches and points: a picture of this width keeps letters of 7 pixels when it is shown at 400.
WIDTH = 6.0
HEIGHT = 4.0
SIZE = 12
ROUND_TRIP = 0.05


def main() -> None:
    for name, figure in {
        "skip-accuracy": draw_skip_accuracy(),
        "exactness": draw_exactness(),
        "passes-acceptance": draw_passes(),
        "token-strip": draw_strip(json.loads((RESULTS / "real" / "strip.json").read_text("utf-8"))),
    }.items():
        figure.savefig(PLOTS / f"{name}.png", dpi=150)


def make_axes(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(labelsize=SIZE)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def draw_skip_accuracy() -> Figure:
    """Accuracy over the LLM's against the share of tokens it never checks, at temperature 0."""
    figure, axes = make_axes()
    axes.axhline(1.0, color="0.8", lw=1)
    x, y = np.array(read_bundled_frontier()).T
    axes.plot(
        x,
        y,
        marker="o",
        linestyle="-",
        color="0.55",
        markersize=7,
        label="bundled pair, gated by margin",
    )
    gated, published = read_real_frontier()
    gated.sort(key=lambda found: found["skipped"])
    x, y, low, high = np.array(
        [[found[key] for key in ("skipped", "relative", "low", "high")] for found in gated]
    ).T
    axes.plot(
        x,
        y,
        marker="s",
        linestyle="--",
        color="0.0",
        markersize=7,
        label="Qwen2.5-Coder 0.5B / 1.5B, gated by margin",
    )
    axes.vlines(x, low, high, color="0.0", lw=0.8)
    shown = read_headline(RESULTS / "paper.md", "cu-hlm")
    axes.plot(
        float(shown[0].strip("%")) / 100,
        float(shown[2].strip("%")) / 100,
        "x",
        color="0.55",
        markersize=10,
        mew=2,
    )
    axes.plot(
        published["skipped"],
        published["relative"],
        "kx",
        markersize=10,
        mew=2,
        linestyle="none",
        label="gated as published",
    )
    axes.plot(*PAPER, "k*", markersize=16, linestyle="none", label="the paper's figures")
    axes.set_xlabel("share of tokens the LLM never checks", fontsize=SIZE)
    axes.set_ylabel("accuracy over the LLM's", fontsize=SIZE)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(0.65, 1.05)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.legend(fontsize=SIZE, loc="lower left", frameon=False)
    return figure


def read_bundled_frontier() -> list[tuple[float, float]]:
    """cu-hlm gated by margin, from the paper's page; and hedge, which skips nothing."""
    page = (RESULTS / "paper.md").read_text("utf-8")
    rows = re.findall(
        r"^\| margin \| [\d.]+ \| ([\d.]+)% \| [^|]+\| [^|]+\| ([\d.]+)%", page, re.MULTILINE
    )
    return [(0.0, 1.0)] + [(float(skipped) / 100, float(kept) / 100) for skipped, kept in rows]


def read_real_frontier() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """llm and cu-hlm gated by margin, where they have all answers; and cu-hlm as published."""
    runs = list(read_tasks(RESULTS / "real", "0").values())

    def read(name: str) -> dict[str, Any]:
        found = aggregate([row for one in runs for row in one.pair_up(name)], MEASURES)
        return found | dict(zip(("low", "high"), found["interval"], strict=True))

    gated = [read(name) for name in runs[0].answers if "measure=margin" in name or name == "llm"]
    most = max(one["answers"] for one in gated)
    return [one for one in gated if one["answers"] == most], read("cu-hlm")


def draw_passes() -> Figure:
    """LLM passes saved against the drafts that are the LLM's own token; a dot an answer."""
    figure, axes = make_axes()
    for label, folder, style in (
        ("bundled pair, questions", ("bundled", "questions"), {"marker": "o", "color": "0.65"}),
        ("bundled pair, tales", ("bundled", "tales"), {"marker": "^", "color": "0.35"}),
        (
            "Qwen2.5-Coder, GSM8K and HumanEval",
            ("real", ""),
            {"marker": "s", "color": "0.0", "facecolors": "none"},
        ),
    ):
        dots = [replay_savings(entry) for entry in read_traces(*folder)]
        x, y = np.array(dots).T
        axes.scatter(x, y, s=26, label=label, linewidths=1, **style)
    axes.set_xlabel("drafts that are the LLM's own token", fontsize=SIZE)
    axes.set_ylabel("LLM passes saved", fontsize=SIZE)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_ylim(0, 1)
    axes.legend(fontsize=SIZE - 1, loc="upper left", frameon=False)
    return figure


def read_traces(folder: str, task: str) -> list[dict[str, Any]]:
    entries = read_journal(RESULTS / folder / "traces.jsonl", "traces")[1]
    return [
        entry
        for entry in entries
        if entry["task"].startswith(task) and len(entry["accepted"]) >= 10
    ]


def replay_savings(entry: dict[str, Any]) -> tuple[float, float]:
    """Of one answer on a phone 50 ms away: the shares of right drafts and of passes saved."""
    trace = Trace(tuple(map(bool, entry["accepted"])), tuple(entry["margin"]))
    counts = replay_traces([trace], configure_hedge("balanced"), read_profile("phone"), ROUND_TRIP)
    return float(np.mean(trace.accepted)), 1 - counts.passes / counts.tokens


def draw_exactness() -> Figure:
    """Answers of hedge that are llm's token for token, by engine."""
    found = count_agreements(RESULTS)
    figure, axes = make_axes(WIDTH, 0.5 * len(found) + 0.9)
    bars = axes.barh(
        range(len(found)), [one.same / one.total for one in found], color="0.75", edgecolor="black"
    )
    counts = [f" {one.same} of {one.total}" for one in found]
    axes.bar_label(bars, counts, fontsize=SIZE - 2)
    labels = [f"{one.engine}\nT {one.temperatures}" for one in found]
    axes.set_yticks(range(len(found)), labels, fontsize=SIZE - 3)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25)
    axes.set_xticks([0, 0.5, 1])
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel("answers of hedge that are llm's, token for token", fontsize=SIZE - 1)
    return figure


if __name__ == "__main__":
    main()
