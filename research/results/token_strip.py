"""The picture of one answer, a cell a token: who wrote it, and which verdict verified it."""

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

WIDTH = 6.0
COLUMNS = 46
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


@dataclass(frozen=True)
class TokenCell:
    """A token at column `at` of a row, as wide as its text."""

    row: int
    at: float
    width: float
    text: str
    token: dict[str, Any]


def place_cells(tokens: list[dict[str, Any]]) -> list[TokenCell]:
    cells = []
    row = 0
    at = 0.0
    for token in tokens:
        text = token["text"].replace("\n", "\u21b5")
        width = max(1.6, 0.95 * len(text) + 0.7)
        if at + width > COLUMNS:
            row += 1
            at = 0.0
        cells.append(TokenCell(row, at, width, text, token))
        at += width
        if "\n" in token["text"]:
            row += 1
            at = 0.0
    return cells


def draw_strip(strip: dict[str, Any]) -> Figure:
    tokens = strip["tokens"]
    cells = place_cells(tokens)
    rows = cells[-1].row + 1 + ("\n" in tokens[-1]["text"])
    figure = Figure(figsize=(WIDTH, 0.46 * rows + 1.15))
    axes = figure.add_axes((0.01, 0.0, 0.98, 1.0))
    axes.set_axis_off()
    axes.set_xlim(0, COLUMNS)
    axes.set_ylim(rows * 1.5 + 2.6, -1.0)
    verdict = None
    for cell in cells:
        _draw_cell(axes, cell, begins=cell.token["verdict"] != verdict)
        verdict = cell.token["verdict"]
    axes.text(0, -0.55, strip["prompt"], fontsize=9, style="italic", va="bottom")
    top = rows * 1.5 + 0.35
    _draw_legend(axes, {token["provenance"] for token in tokens}, top)
    counts = f"{len(tokens)} tokens, {strip['rounds']} passes of the LLM; "
    counts += "a bar and a number begin what one pass verified"
    axes.text(0, top + 1.35, counts, fontsize=7.5, va="center")
    return figure


def _draw_cell(axes: Any, cell: TokenCell, *, begins: bool) -> None:
    """`begins`: what a verdict verified."""
    fill, ink = SHADES[cell.token["provenance"]]
    top = cell.row * 1.5
    box = Rectangle((cell.at, top), cell.width, 1.0, facecolor=fill, edgecolor="0.3", lw=0.6)
    axes.add_patch(box)
    axes.text(
        cell.at + cell.width / 2,
        top + 0.52,
        cell.text,
        ha="center",
        va="center",
        fontsize=8.5,
        color=ink,
        family="monospace",
    )
    if begins:
        number = str(cell.token["verdict"])
        axes.text(cell.at, top - 0.08, number, ha="left", va="bottom", fontsize=6.5, color="0.35")
        axes.plot([cell.at, cell.at], [top - 0.25, top + 1.0], color="black", lw=1.8)


def _draw_legend(axes: Any, seen: set[str], top: float) -> None:
    at = 0.0
    for kind, called in CALLED.items():
        if kind in seen:
            fill = SHADES[kind][0]
            axes.add_patch(Rectangle((at, top), 1.2, 0.7, facecolor=fill, edgecolor="0.3", lw=0.6))
            axes.text(at + 1.6, top + 0.38, called, fontsize=7.5, va="center")
            at += 2.4 + 0.42 * len(called)
