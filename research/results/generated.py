"""The generated parts of the pages whose rows are kept, written again or compared with what stands
there.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hedge.evaluation.record import read_journal
from research.results import real_tables
from research.results import wireless as wireless_results
from research.results.default import default
from research.results.paper_tables import write
from tools import bench_tables

Parts = dict[str, dict[str, Callable[[], str]]]


def parts(root: Path) -> Parts:
    """By page: what stands between the marks of each name."""
    results = root / "docs" / "results"
    wireless = read_journal(results / "wireless" / "rows.jsonl", "wireless")[1]
    benched = bench_tables.parts(bench_tables.read(results / "bench-rows.jsonl"))
    return {
        "docs/results/tables.md": {
            name: partial(str, text) for name, text in wireless_results.tables(wireless).items()
        },
        "docs/results/wireless.md": {"wireless short": lambda: wireless_results.short(wireless)},
        **{
            page: {name: partial(str, text) for name, text in tables.items()}
            for page, tables in benched.items()
        },
        **real_tables.parts(results / "real"),
        "README.md": {"default": partial(default, results)},
    }


def differences(root: Path) -> list[str]:
    """Parts that the rows do not give."""
    found = []
    for page, named in parts(root).items():
        text = (root / page).read_text("utf-8")
        for name, made in named.items():
            stands = re.search(
                rf"<!-- begin {re.escape(name)} -->\n(.*?)\n?<!-- end {re.escape(name)} -->",
                text,
                re.DOTALL,
            )
            if stands is None:
                found.append(f"{page}: has no place for {name}")
            elif stands[1].strip() != made().strip():
                found.append(
                    f"{page}: {name} is not what its rows give: python -m research.results.generated"
                )
    return found


def main() -> None:
    root = Path(__file__).parents[2]
    for page, named in parts(root).items():
        write(root / page, {name: made() for name, made in named.items()})


if __name__ == "__main__":
    main()
