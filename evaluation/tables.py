"""Tables of rows. A cell is an aggregate of the rows of its line, in a format:

    table = tabulate(rows, ("system",), [
        Column("system", first("system")),
        Column("tokens/s", middle("tokens_per_s"), ".1f"),
        Column("passes/token", ratio("rounds", "tokens"), ".3f"),
    ])
    print(markdown(table))          # or show(table, title="12 questions"), on the terminal

A row is a mapping, or any object where fields are functions. A field is the name of a value, or a
function of a row. `aggregate(rows, {name: ...})` gives the numbers themselves.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

Field = str | Callable[[Any], Any]
Aggregate = Callable[[Sequence[Any]], Any]
# Of strings: the heading, then a line each.
Cells = Sequence[Sequence[str]]
WIDTH = 200


def read(row: Any, field: Field) -> Any:
    return row[field] if isinstance(field, str) else field(row)


def first(field: Field) -> Aggregate:
    """The value of the first row, for what all rows of a line have in common."""
    return lambda rows: read(rows[0], field)


def total(field: Field) -> Aggregate:
    return lambda rows: sum(read(row, field) for row in rows)


def ratio(field: Field, per: Field) -> Aggregate:
    """The sum of one field over that of another; None where the latter is 0."""

    def divide(rows: Sequence[Any]) -> float | None:
        below = total(per)(rows)
        return total(field)(rows) / below if below else None

    return divide


def mean(field: Field) -> Aggregate:
    """Over the rows that have a value; None where none has."""

    def average(rows: Sequence[Any]) -> float | None:
        known = [value for row in rows if (value := read(row, field)) is not None]
        return sum(known) / len(known) if known else None

    return average


def middle(field: Field) -> Aggregate:
    """The median."""
    return lambda rows: median(read(row, field) for row in rows)


def aggregate(rows: Sequence[Any], measures: Mapping[str, Aggregate]) -> dict[str, Any]:
    return {name: measure(rows) for name, measure in measures.items()}


def group(rows: Iterable[Any], fields: Sequence[Field]) -> dict[tuple[Any, ...], list[Any]]:
    """The rows that agree in these fields, in order of their first."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        found.setdefault(tuple(read(row, field) for field in fields), []).append(row)
    return found


def short_number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


@dataclass(frozen=True, slots=True)
class Column:
    """`format` is a format specification, or a function of the value; None is shown as `-`."""

    title: str
    of: Aggregate
    format: str | Callable[[Any], str] = ""

    def show(self, rows: Sequence[Any]) -> str:
        value = self.of(rows)
        if value is None:
            return "-"
        return format(value, self.format) if isinstance(self.format, str) else self.format(value)


def tabulate(rows: Iterable[Any], by: Sequence[Field], columns: Sequence[Column]) -> Cells:
    """A line for all rows that agree in the fields `by`."""
    lines = [[column.show(mine) for column in columns] for mine in group(rows, by).values()]
    return [[column.title for column in columns], *lines]


def transpose(cells: Cells) -> Cells:
    return [list(column) for column in zip(*cells, strict=True)]


def markdown(cells: Cells, left: int = 1) -> str:
    """A table of Markdown whose first `left` columns are set left, the others right."""
    head, *lines = cells
    rule = ["---" if number < left else "---:" for number in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def make_console() -> Console:
    """The terminal; in a pipe or a file, where nothing wraps, wide enough for every column."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def show(
    cells: Cells, title: str, left: Collection[int] = (0,), bold: Collection[str] = ()
) -> None:
    """Prints a table: the columns numbered `left` are set left, lines that begin so are bold."""
    head, *lines = cells
    table = Table(title=title)
    for number, heading in enumerate(head):
        table.add_column(heading, justify="left" if number in left else "right")
    for line in lines:
        table.add_row(*line, style="bold" if line[0] in bold else None)
    make_console().print(table)
