"""python -m tools.docs_check: links of the documents that lead nowhere, commands that are none,
figures their rows do not have.

docs/figures.toml names the figures: on which page which words stand, and the rows, field and format
that they come from.
"""

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

from hedge.cloud_server.cli import commands as cloud_commands
from hedge.edge_client.cli.commands import commands
from research.results import generated

ROOT = Path(__file__).parent.parent
FIGURES = Path("docs") / "figures.toml"
# Columns of the first table of a page.
WIDEST = 90
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
_COMMIT = re.compile(r"`([0-9a-f]{7})`")
_PROGRAM = re.compile(r"^(?:\$ )?(hedge|hedge-cloud|make|python -m)\s")


def find_pages(root: Path) -> list[Path]:
    """Every document that is kept."""
    found = [
        root / "README.md",
        *(root / "docs").rglob("*.md"),
        *(root / folder / "README.md" for folder in ("models", "examples")),
        root / "CONTRIBUTING.md",
    ]
    return sorted(path for path in found if path.exists())


def check_links(page: Path, root: Path) -> Iterator[str]:
    for target in _LINK.findall(_BLOCK.sub("", page.read_text("utf-8"))):
        where, _, heading = target.partition("#")
        if "://" in where:
            continue
        path = page if not where else (page.parent / where).resolve()
        if not path.exists():
            yield f"{target}: there is no {where}"
        elif heading and path.suffix == ".md" and heading not in _headings(path):
            yield f"{target}: {path.relative_to(root)} has no such heading"


def _headings(path: Path) -> set[str]:
    """As GitHub names them."""
    titles = _HEADING.findall(_BLOCK.sub("", path.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def find_commands(text: str) -> Iterator[str]:
    """Commands of ours in code, each on one line."""
    lines = [
        line for block in _BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()
    ]
    for line in (*lines, *_INLINE.findall(_BLOCK.sub("", text))):
        if _PROGRAM.match(line) and not re.match(r"^hedge(-cloud)?: ", line):
            yield line.strip()


def find_fault(command: str, root: Path) -> str | None:
    """What is not there of a command. Words in capitals and `...` stand for something."""
    try:
        words = shlex.split(command, comments=True)
    except ValueError:
        return None
    words = [word for word in words if word != "$"]
    if words[0] == "python":
        module = words[2]
        if (
            not (root / (module.replace(".", "/") + ".py")).exists()
            and not (root / module.replace(".", "/")).is_dir()
        ):
            return f"no module {module}"
        return None
    if words[0] == "make":
        targets = [word for word in words[1:] if re.fullmatch(r"[a-z][a-z-]*", word)]
        known = set(
            re.findall(r"^([a-z][a-z-]*):", (root / "Makefile").read_text("utf-8"), re.MULTILINE)
        )
        missing = [target for target in targets[:1] if target not in known]
        return f"no target {missing[0]}" if missing else None
    return _find_option_fault(words[0], words[1:])


def _find_option_fault(program: str, words: list[str]) -> str | None:
    if not words or not re.fullmatch(r"[a-z]+", words[0]):
        return None
    known = commands() if program == "hedge" else cloud_commands()
    if words[0] not in known.where:
        return f"{program} has no {words[0]}"
    inner = (
        words[1]
        if len(words) > 1
        and words[0] in ("simulate", "wireless")
        and re.fullmatch(r"[a-z]+", words[1])
        else ""
    )
    text = _help(program, words[0], inner)
    options = [word.partition("=")[0] for word in words[1:] if word.startswith("--")]
    missing = [
        option
        for option in options
        if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text)
    ]
    return f"{program} {words[0]} {inner}".rstrip() + f" has no {missing[0]}" if missing else None


@cache
def _help(program: str, name: str, inner: str) -> str:
    known = commands() if program == "hedge" else cloud_commands()
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        known.run([name, *([inner] if inner else []), "--help"])
    return said.getvalue()


def _in_table(line: str) -> bool:
    return line.startswith("|")


def measure_table(page: Path) -> Iterator[str]:
    """A page of docs/results whose first table is wider than a terminal."""
    table = list(
        takewhile(
            _in_table,
            dropwhile(lambda line: not _in_table(line), page.read_text("utf-8").splitlines()),
        )
    )
    if (
        page.parent.name == "results"
        and page.stem != "tables"
        and (widest := max(map(len, table), default=0)) > WIDEST
    ):
        yield f"its first table has {widest} columns, more than {WIDEST}"


def find_unknown_commits(page: Path, root: Path) -> Iterator[str]:
    """Commits that a page names and the history has not; nothing where there is no history, or not
    all of it.
    """
    asked = ["git", "-C", str(root), "rev-parse", "--is-shallow-repository"]
    if subprocess.run(asked, capture_output=True, check=False).stdout.strip() != b"false":
        return
    for name in sorted(set(_COMMIT.findall(page.read_text("utf-8")))):
        found = subprocess.run(
            ["git", "-C", str(root), "cat-file", "-e", f"{name}^{{commit}}"],
            capture_output=True,
            check=False,
        )
        if found.returncode == 1 or b"Not a valid object" in found.stderr:
            yield f"no commit {name}"


def compare_figures(root: Path) -> Iterator[str]:
    """Words that the rows they are said to come from do not give, or that are not on their page."""
    for entry in tomllib.loads((root / FIGURES).read_text("utf-8")).get("figure", []):
        page = root / entry["page"]
        words = entry["words"]
        text = re.sub(r"\s+", " ", page.read_text("utf-8"))
        if words not in text:
            yield f"{entry['page']}: does not say {words!r}"
            continue
        if (
            expected := entry["format"].format(entry.get("times", 1) * read_value(entry, root))
        ) not in words:
            yield f"{entry['page']}: says {words!r}, and {entry['rows']} gives {expected!r}"


def read_value(entry: dict[str, Any], root: Path) -> float:
    """Of the rows that are as `where` says: the sum of `field` over that of `per`, how many have
    `share`, or the only one.
    """
    every = [json.loads(line) for line in (root / entry["rows"]).read_text("utf-8").splitlines()]
    field = entry["field"]
    where = entry.get("where", {})
    rows = [
        row
        for row in every
        if field in row and all(row.get(key) == value for key, value in where.items())
    ]
    if "per" in entry and rows:
        return float(sum(row[field] for row in rows) / sum(row[entry["per"]] for row in rows))
    if "share" in entry:
        return float(sum(row[field] == entry["share"] for row in rows))
    if len(rows) != 1:
        raise SystemExit(f"{FIGURES}: {len(rows)} rows of {entry['rows']} are {where}")
    return float(rows[0][field])


def check_documents(root: Path = ROOT) -> list[str]:
    """Every finding, in a line."""
    found = []
    for page in find_pages(root):
        where = page.relative_to(root)
        found += [f"{where}: {line}" for line in check_links(page, root)]
        found += [
            f"{where}: {line}" for line in (*find_unknown_commits(page, root), *measure_table(page))
        ]
        said = dict.fromkeys(find_commands(page.read_text("utf-8")))
        found += [
            f"{where}: {command}: {line}" for command in said if (line := find_fault(command, root))
        ]
    found += compare_figures(root)
    found += generated.find_differences(root)
    return found


def main() -> None:
    found = check_documents()
    for line in found:
        sys.stderr.write(f"docs-check: {line}\n")
    sys.stdout.write(f"{len(find_pages(ROOT))} pages, {len(found)} findings\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
