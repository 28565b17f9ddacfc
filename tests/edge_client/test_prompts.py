from pathlib import Path

import pytest

from hedge.common.errors import BadInput
from hedge.edge_client.cli.prompts import from_text, read_prompts


def test_both_forms_are_read(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"prompt": "a", "reference": "b"}\n\n{"messages": [{"role": "user", "content": "x"}, '
        '{"role": "assistant", "content": "y"}, {"role": "user", "content": "z"}]}\n'
    )
    first, second = read_prompts(path)
    assert (first.text, first.reference) == ("a", "b")
    assert (len(second.messages), second.text) == (3, "z")


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        "3",
        "{}",
        '{"prompt": 3}',
        '{"prompt": " "}',
        '{"messages": []}',
        '{"messages": [3]}',
        '{"messages": [{"role": "user"}]}',
        '{"prompt": "a", "reference": 4}',
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(f'{{"prompt": "fine"}}\n{line}\n')
    with pytest.raises(BadInput, match=r"p\.jsonl:2"):
        read_prompts(path)


def test_a_line_ends_at_a_newline_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a\u2028b\u0085c"}\r\n{"prompt": "d"}')
    assert [prompt.text for prompt in read_prompts(path)] == ["a\u2028b\u0085c", "d"]


def test_endless_nesting_is_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("[" * 100_000)
    with pytest.raises(BadInput, match=r"p\.jsonl:1"):
        read_prompts(path)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere"):
        read_prompts(tmp_path / "nowhere")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(BadInput, match="no prompt"):
        read_prompts(tmp_path / "empty")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="UTF-8"):
        read_prompts(tmp_path / "binary")
    with pytest.raises(BadInput, match="empty"):
        from_text("  ")
