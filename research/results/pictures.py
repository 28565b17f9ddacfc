"""python -m research.results.pictures: the pictures of README.md and docs/results from kept rows; in grey,
legible at 400 px.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hedge.evaluation.profile import read_profile
from hedge.evaluation.record import read_journal
from hedge.evaluation.replay import Trace, replayed
from research.links import preferring
from research.results.real_tables import TASKS, Runs, agreement, headline, summed

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
PLOTS = ROOT / "docs" / "plots"
PAPER = (0.748, 0.974)
# Inches and points: a picture of this width keeps letters of 7 pixels when it is shown at 400.
WIDTH = 6.0
HEIGHT = 4.0
SIZE = 12
ROUND_TRIP = 0.05
# Who wrote a token: shade of its cell, and of its letters.
SHADES = {
    "accepted": ("0.92", "0.0"),
    "corrected": ("0.15", "1.0"),
    "bonus": ("0.55", "1.0"),
    "local": ("1.0", "0.0"),
}
CALLED = {
    "accepted": "drafted on the device, verified",
    "corrected": "the cloud's, in place of a draft",
    "bonus": "the cloud's, behind a whole block",
}


def main() -> None:
    for name, figure in {
        "skip-accuracy": skip_accuracy(),
        "exactness": exactness(),
        "passes-acceptance": passes_acceptance(),
        "token-strip": token_strip(
            json.loads((RESULTS / "real" / "strip.json").read_text("utf-8"))
        ),
    }.items():
        figure.savefig(PLOTS / f"{name}.png", dpi=150)


def axes_of(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(labelsize=SIZE)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def skip_accuracy() -> Figure:
    """Accuracy over the LLM's against the share of tokens that the LLM is not asked about,
    temperature 0.
    """
    figure, axes = axes_of()
    axes.axhline(1.0, color="0.8", lw=1)
    x, y = np.array(bundled_frontier()).T
    axes.plot(
        x,
        y,
        marker="o",
        linestyle="-",
        color="0.55",
        markersize=7,
        label="bundled pair, gated by margin",
    )
    gated, published = real_frontier()
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
    shown = headline(RESULTS / "paper.md", "cu-hlm")
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


def bundled_frontier() -> list[tuple[float, float]]:
    """cu-hlm gated by margin, as the table of the paper's page has it; and hedge, which skips
    nothing.
    """
    page = (RESULTS / "paper.md").read_text("utf-8")
    rows = re.findall(
        r"^\| margin \| [\d.]+ \| ([\d.]+)% \| [^|]+\| [^|]+\| ([\d.]+)%", page, re.MULTILINE
    )
    return [(0.0, 1.0)] + [(float(skipped) / 100, float(kept) / 100) for skipped, kept in rows]


def real_frontier() -> tuple[list[dict[str, float]], dict[str, float]]:
    """What llm and cu-hlm gated by margin come to where they have all answers; and cu-hlm as
    published.
    """
    runs = [run for task in TASKS if (run := Runs.read(RESULTS / "real", task, "0"))]

    def found(name: str) -> dict[str, float]:
        return summed([pair for one in runs for pair in one.whole(name)], runs[0].vocab_size)

    gated = [found(name) for name in runs[0].answers if "measure=margin" in name or name == "llm"]
    most = max(one["answers"] for one in gated)
    return [one for one in gated if one["answers"] == most], found("cu-hlm")


def passes_acceptance() -> Figure:
    """LLM passes a token against the share of drafts that are the LLM's own token; a dot an answer."""
    figure, axes = axes_of()
    for label, folder, style in (
        ("bundled pair, questions", ("bundled", "questions"), {"marker": "o", "color": "0.65"}),
        ("bundled pair, tales", ("bundled", "tales"), {"marker": "^", "color": "0.35"}),
        (
            "Qwen2.5-Coder, GSM8K and HumanEval",
            ("real", ""),
            {"marker": "s", "color": "0.0", "facecolors": "none"},
        ),
    ):
        dots = [saved(entry) for entry in traces(*folder)]
        x, y = np.array(dots).T
        axes.scatter(x, y, s=26, label=label, linewidths=1, **style)
    axes.set_xlabel("drafts that are the LLM's own token", fontsize=SIZE)
    axes.set_ylabel("LLM passes saved", fontsize=SIZE)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_ylim(0, 1)
    axes.legend(fontsize=SIZE - 1, loc="upper left", frameon=False)
    return figure


def traces(folder: str, task: str) -> list[dict[str, Any]]:
    entries = read_journal(RESULTS / folder / "traces.jsonl", "traces")[1]
    return [
        entry
        for entry in entries
        if entry["task"].startswith(task) and len(entry["accepted"]) >= 10
    ]


def saved(entry: dict[str, Any]) -> tuple[float, float]:
    """Of one answer: the share of drafts that were right, and of passes that the LLM did not make,
    on a phone 50 ms away.
    """
    trace = Trace(tuple(map(bool, entry["accepted"])), tuple(entry["margin"]))
    counts = replayed([trace], preferring("balanced"), read_profile("phone"), ROUND_TRIP)
    return float(np.mean(trace.accepted)), 1 - counts.passes / counts.tokens


def exactness() -> Figure:
    """Answers of hedge that are llm's token for token, by engine."""
    found = agreement(RESULTS)
    figure, axes = axes_of(WIDTH, 0.5 * len(found) + 0.9)
    shares = [same / total for _, _, same, total, _ in found]
    bars = axes.barh(range(len(found)), shares, color="0.75", edgecolor="black")
    axes.bar_label(
        bars, [f" {same} of {total}" for _, _, same, total, _ in found], fontsize=SIZE - 2
    )
    axes.set_yticks(
        range(len(found)), [f"{what}\nT {at}" for what, at, *_ in found], fontsize=SIZE - 3
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25)
    axes.set_xticks([0, 0.5, 1])
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel("answers of hedge that are llm's, token for token", fontsize=SIZE - 1)
    return figure


def token_strip(strip: dict[str, Any], columns: int = 46) -> Figure:
    """One answer, a cell a token, as wide as its text: who wrote it, and by which verdict it was
    verified.
    """
    cells = []
    row = 0
    at = 0.0
    for token in strip["tokens"]:
        text = token["text"].replace("\n", "\u21b5")
        width = max(1.6, 0.95 * len(text) + 0.7)
        if at + width > columns:
            row = row + 1
            at = 0.0
        cells.append((row, at, width, text, token))
        at += width
        if "\n" in token["text"]:
            row = row + 1
            at = 0.0
    rows = row + 1
    figure = Figure(figsize=(WIDTH, 0.46 * rows + 1.15))
    axes = figure.add_axes((0.01, 0.0, 0.98, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, columns)
    axes.set_ylim(rows * 1.5 + 2.6, -1.0)
    verdict = None
    for row, at, width, text, token in cells:
        fill, ink = SHADES[token["provenance"]]
        top = row * 1.5
        axes.add_patch(Rectangle((at, top), width, 1.0, facecolor=fill, edgecolor="0.3", lw=0.6))
        axes.text(
            at + width / 2,
            top + 0.52,
            text,
            ha="center",
            va="center",
            fontsize=8.5,
            color=ink,
            family="monospace",
        )
        if token["verdict"] != verdict:
            verdict = token["verdict"]
            axes.text(
                at, top - 0.08, str(verdict), ha="left", va="bottom", fontsize=6.5, color="0.35"
            )
            axes.plot([at, at], [top - 0.25, top + 1.0], color="black", lw=1.8)
    axes.text(0, -0.55, strip["prompt"], fontsize=9, style="italic", va="bottom")
    at = 0.0
    top = rows * 1.5 + 0.35
    seen = {token["provenance"] for token in strip["tokens"]}
    for kind, called in ((kind, called) for kind, called in CALLED.items() if kind in seen):
        fill, _ = SHADES[kind]
        axes.add_patch(Rectangle((at, top), 1.2, 0.7, facecolor=fill, edgecolor="0.3", lw=0.6))
        axes.text(at + 1.6, top + 0.38, called, fontsize=7.5, va="center")
        at += 2.4 + 0.42 * len(called)
    counts = f"{len(strip['tokens'])} tokens, {strip['rounds']} passes of the LLM; a bar and a number begin what one pass verified"
    axes.text(0, top + 1.35, counts, fontsize=7.5, va="center")
    return figure


if __name__ == "__main__":
    main()
