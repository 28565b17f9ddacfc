"""python -m research.results.generated: writes the tables whose rows are kept into their pages."""

from pathlib import Path

from hedge.evaluation.record import read_journal
from research.benches import tables as bench_tables
from research.results import real_tables, wireless
from research.results.default import tabulate_default
from research.results.pages import ROOT, Pages, compare_parts, write_parts


def make_parts(root: Path) -> Pages:
    results = root / "docs" / "results"
    rows = read_journal(results / "wireless" / "rows.jsonl", "wireless")[1]
    return (
        wireless.make_parts(rows)
        | bench_tables.parts(bench_tables.read(results / "bench-rows.jsonl"))
        | real_tables.make_parts(results)
        | {"README.md": {"default": tabulate_default(results)}}
    )


def find_differences(root: Path) -> list[str]:
    """Parts that the rows do not give."""
    return compare_parts(root, make_parts(root))


def main() -> None:
    for page, parts in make_parts(ROOT).items():
        write_parts(ROOT / page, parts)


if __name__ == "__main__":
    main()
