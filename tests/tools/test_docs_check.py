"""The documents: what they link to, the commands they name and the figures they give are there."""

import json
import shutil
from pathlib import Path

import pytest

from research.results import generated
from tools.docs_check import (
    ROOT,
    check_documents,
    check_links,
    compare_figures,
    find_commands,
    find_fault,
    find_pages,
)

PAGE = """# A page

[good](other.md#a-heading-with-words), [far](https://example.org/x),
[bad](missing.md), [worse](other.md#nowhere).

```
hedge chat --insecure            # fine
hedge-cloud: rounding: logits differ
[not a link](in-code.md)
```
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    docs.mkdir()
    (tmp_path / "README.md").write_text("# Title\n\n[page](docs/page.md)\n")
    (docs / "page.md").write_text(PAGE)
    (docs / "other.md").write_text("# A heading, with `words`\n")
    (tmp_path / "Makefile").write_text("demo:\n\ttrue\n")
    return tmp_path


def test_the_documents_hold() -> None:
    assert check_documents() == []


def test_a_table_that_its_rows_do_not_give_is_named(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    assert generated.find_differences(tmp_path) == []
    page = tmp_path / "docs" / "results" / "wireless.md"
    page.write_text(page.read_text().replace("| ml | 0.322 |", "| ml | 0.522 |"))
    (tmp_path / "README.md").write_text("# Nothing\n")
    found = generated.find_differences(tmp_path)
    assert [line.partition(":")[0] for line in found] == ["docs/results/wireless.md", "README.md"]
    assert "not what its rows give" in found[0]
    assert "has no place for default" in found[1]


def test_links_and_headings_that_are_not_there_are_named(tree: Path) -> None:
    assert [page.name for page in find_pages(tree)] == ["README.md", "other.md", "page.md"]
    found = list(check_links(tree / "docs" / "page.md", tree))
    assert found == [
        "missing.md: there is no missing.md",
        "other.md#nowhere: docs/other.md has no such heading",
    ]


def test_commands_are_found_in_blocks_and_in_lines() -> None:
    text = (
        "`hedge doctor --insecure` and `hedge`, `make demo`\n\n"
        "```\nhedge serve \\\n  --port 80   # words\nls\n```\n"
    )
    assert list(find_commands(text)) == [
        "hedge serve    --port 80   # words",
        "hedge doctor --insecure",
        "make demo",
    ]
    assert list(find_commands("```\nhedge-cloud: rounding: no command\n```\n")) == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("hedge chat --insecure --temperature 0.7", None),
        ("hedge simulate links --traces FILE --prefer cloud", None),
        ("hedge simulate links --snr 3", "hedge simulate links has no --snr"),
        ("hedge wireless send --text x", None),
        ("hedge COMMAND --help", None),
        ("hedge dream", "hedge has no dream"),
        ("hedge chat --temp 1", "hedge chat has no --temp"),
        ("hedge-cloud serve --llm=x --insecure", None),
        ("hedge-cloud serve --loud", "hedge-cloud serve has no --loud"),
        ("make demo PROMPT=x", None),
        ("make dream", "no target dream"),
        ("python -m research.results.real PAIR", None),
        ("python -m tools.nothing", "no module tools.nothing"),
    ],
)
def test_commands_that_are_none_are_named(command: str, words: str | None) -> None:
    assert find_fault(command, ROOT) == words


def test_figures_are_those_of_their_rows(tree: Path) -> None:
    rows: list[dict[str, object]] = [{"version": 2}, {"run": "b", "rounds": 9}]
    rows += [
        {"run": "a", "rounds": 3, "tokens": 10, "same": True},
        {"run": "a", "rounds": 4, "tokens": 10, "same": False},
    ]
    (tree / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = tree / "docs" / "other.md"
    page.write_text("It takes 0.35 passes\na token; 1 of 2 are the same, and 9 rounds.")

    def found(**entry: object) -> list[str]:
        lines = [
            "[[figure]]",
            'page = "docs/other.md"',
            'rows = "rows.jsonl"',
            *(f"{k} = {json.dumps(v)}" for k, v in entry.items()),
        ]
        where = "\n".join(lines).replace('where = {"run": ', "where = {run = ")
        (tree / "docs" / "figures.toml").write_text(where)
        return list(compare_figures(tree))

    passes = {"field": "rounds", "per": "tokens", "where": {"run": "a"}}
    assert found(words="0.35 passes a token", format="{:.2f} passes", **passes) == []
    assert "does not say" in found(words="0.36 passes", format="{:.2f} passes", **passes)[0]
    assert (
        "gives '0.3500 passes'" in found(words="0.35 passes", format="{:.4f} passes", **passes)[0]
    )
    assert found(words="1 of 2", format="{:.0f} of 2", field="same", share=True) == []
    assert found(words="9 rounds", format="{:.0f} rounds", field="rounds", where={"run": "b"}) == []
