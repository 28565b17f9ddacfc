"""Generated parts of pages: each stands between a begin and an end mark that names it."""

import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
# Parts by name, of each page by its path.
Pages = dict[str, dict[str, str]]


def _mark(name: str) -> re.Pattern[str]:
    name = re.escape(name)
    return re.compile(rf"(<!-- begin {name} -->\n)(.*?)\n?(<!-- end {name} -->)", re.DOTALL)


def write_parts(page: Path, parts: Mapping[str, str]) -> None:
    """Replaces the text between the marks of each part."""
    text = page.read_text("utf-8")
    for name, part in parts.items():
        found = _mark(name).search(text)
        if not found:
            raise SystemExit(f"{page} has no place for {name}")
        text = f"{text[: found.start()]}{found[1]}{part}\n{found[3]}{text[found.end() :]}"
    page.write_text(text, "utf-8")


def compare_parts(root: Path, pages: Pages) -> list[str]:
    """The parts that are missing or differ, a line each."""
    found = []
    for page, parts in pages.items():
        text = (root / page).read_text("utf-8")
        for name, part in parts.items():
            stands = _mark(name).search(text)
            if stands is None:
                found.append(f"{page}: has no place for {name}")
            elif stands[2].strip() != part.strip():
                command = "python -m research.results.generated"
                found.append(f"{page}: {name} is not what its rows give: {command}")
    return found
