"""What was expected of a link beside what a run then measured."""

from hedge.evaluation.tables import markdown
from research.results.real_rows import Rows

# Fields and their digits.
PREDICTED = {"tokens_per_s": 1, "llm_tokens_per_s": 1, "passes": 3}


def show_ms(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms"


def tabulate_predicted(rows: Rows) -> str:
    lines = []
    for row in rows:
        cells = [row["pair"], f"{row['temperature']:g}", show_ms(row["round_trip"])]
        for key, digits in PREDICTED.items():
            expected, measured = (row[which][key] for which in ("expected", "measured"))
            cells.append(f"{expected:.{digits}f} / {measured:.{digits}f}")
            cells.append(f"{row[f'{key}_off']:+.0%}")
        lines.append(cells)
    head = ("pair", "T", "link", "tokens/s", "off", "llm's", "off", "passes", "off")
    return markdown([head, *lines])
