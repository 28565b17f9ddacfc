"""What the command lines of both programs share."""

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hedge
from hedge.cloud_server.serving.access import Access
from hedge.common.command import command_parser, parse, size
from hedge.common.errors import BadInput
from hedge.common.rpc import split_address
from hedge.edge_client.cli.prompts import read_prompts
from hedge.edge_client.cli.serve import read_key

MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1000000", 1_000_000),
        ("512M", 512 << 20),
        ("1.5g", 3 << 29),
        ("2 GiB", 2 << 30),
        ("1KB", 1024),
        ("1T", 1 << 40),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert size(text) == expected


@pytest.mark.parametrize("text", ["", "G", "-1", "1e9", "1X", "1GG", "nan", "inf", "٣", "9" * 400])
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a size such as 512M or 2G"):
        size(text)


@given(st.integers(0, 1 << 49))
def test_a_number_of_bytes_is_itself(number: int) -> None:
    assert size(str(number)) == number


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("thraeds = 4", "prog has no option 'thraeds'; is it threads?"),
        ("zzz = 1", "prog has no option 'zzz'"),
    ],
)
def test_options_of_a_file_that_there_are_not_are_named(
    line: str, words: str, tmp_path: Path
) -> None:
    parser = command_parser("prog", "", "")
    parser.add_argument("--threads", type=int)
    path = tmp_path / "hedge.toml"
    path.write_bytes(MARK + b"threads = 3\n")
    assert parse(parser, ["--config", str(path)]).threads == 3
    path.write_text(line)
    with pytest.raises(BadInput) as caught:
        parse(parser, ["--config", str(path)])
    assert str(caught.value) == f"{path}: {words}"


def test_files_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(MARK + b"secret\n")
    assert read_key(path) == "secret"
    path.write_bytes(MARK + f"phone:{hashlib.sha256(b'secret').hexdigest()}\n".encode())
    assert Access(path).client([("authorization", "Bearer secret")]) == "phone"
    path.write_bytes(MARK + b'{"prompt": "hi"}\n')
    assert [prompt.text for prompt in read_prompts(path)] == ["hi"]


def test_an_address_that_is_a_url_is_named() -> None:
    with pytest.raises(BadInput, match=r"'http://a:1' is a URL; HOST:PORT"):
        split_address("http://a:1")


def test_the_version_is_that_of_the_package() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "hedge", "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout == f"hedge {hedge.__version__}\n"
    with pytest.raises(AttributeError, match="nothing"):
        hedge.nothing  # noqa: B018
