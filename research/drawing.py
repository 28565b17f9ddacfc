"""What the figures share; series are told apart in grey by marker, line and shade."""

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hedge.evaluation.tables import group

Entries = Sequence[dict[str, Any]]


def make_styles() -> Iterator[dict[str, Any]]:
    marks = cycle("os^vDPX*<>")
    lines = cycle(["-", "--", "-.", ":"])
    shades = cycle(["0.0", "0.35", "0.55"])
    for mark, line, shade in zip(marks, lines, shades, strict=False):
        yield {"marker": mark, "linestyle": line, "color": shade, "markersize": 5}


def make_figure(columns: int, width: float = 4.2, rows: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * columns, 3.8 * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]


def split_series(rows: Entries, field: str) -> Iterator[tuple[str, Entries, dict[str, Any]]]:
    """The rows of each value of a field, and its style."""
    for ((name,), mine), style in zip(group(rows, (field,)).items(), make_styles(), strict=False):
        yield name, mine, style


def draw_line(axes: Axes, rows: Entries, x: str, y: str, **style: Any) -> None:
    """y over x, in the order of x."""
    points = sorted((float(row[x]), float(row[y])) for row in rows)
    axes.plot(*zip(*points, strict=True), **style)


def select(rows: Entries, **where: object) -> Entries:
    return [row for row in rows if all(row[name] == value for name, value in where.items())]


def shorten(run: str) -> str:
    """A run's name, without its seed and the longest words of its options."""
    name = run.rpartition(" #")[0] or run
    for word in ("threshold-rule=", "truncation=", "measure=", "verification="):
        name = name.replace(word, "")
    return name.replace("quantile,skip-rate=", "skip ")
