"""Headers of GGUF files: what is read, and what is refused in one line, before llama.cpp sees the
file.
"""

import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.common import llama_decoder
from hedge.common.errors import BadInput
from hedge.common.gguf import read_header
from hedge.common.loading import load
from hedge.common.model import vocabulary
from hedge.common.model_options import ModelOptions
from tools.to_gguf import write_gguf

METADATA = {
    "general.architecture": "llama",
    "llama.context_length": 64,
    "llama.rope.freq_base": 10000.0,
    "llama.flag": True,
    "tokenizer.ggml.tokens": ["a", "é", "[PAD2]"],
    "tokenizer.ggml.token_type": [1, 1, 5],
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tensors = {"one": np.ones((3, 4), np.float32), "two": np.ones(1000, np.float32)}
    return write_gguf(tmp_path_factory.mktemp("gguf") / "whole.gguf", METADATA, tensors)


def test_what_was_written_is_read(file: Path) -> None:
    header = read_header(file)
    assert header.metadata == METADATA
    assert header.architecture == "llama"
    assert header.of_architecture("context_length") == 64


def test_the_fingerprint_names_header_and_weights(file: Path, tmp_path: Path) -> None:
    print_of = {read_header(file).fingerprint}
    for name, metadata, weights in (
        ("a", METADATA | {"general.name": "x"}, np.ones(1000)),
        ("b", METADATA, np.zeros(1000)),
        ("c", METADATA, np.ones(1001)),
    ):
        tensors = {"one": np.ones((3, 4), np.float32), "two": weights.astype(np.float32)}
        print_of.add(
            read_header(write_gguf(tmp_path / f"{name}.gguf", metadata, tensors)).fingerprint
        )
    assert len(print_of) == 4


@given(st.integers(0, 10_000))
def test_a_file_cut_short_anywhere_in_its_header_is_refused(file: Path, at: int) -> None:
    data = file.read_bytes()
    header = data.index(np.ones(12, np.float32).tobytes())
    cut = file.with_name("cut.gguf")
    cut.write_bytes(data[: at % header])
    with pytest.raises(BadInput, match=r"cut short|not a GGUF|empty"):
        read_header(cut)


@given(st.binary(max_size=200))
def test_hostile_bytes_are_refused(file: Path, data: bytes) -> None:
    hostile = file.with_name("hostile.gguf")
    for start in (b"", b"GGUF\x03\0\0\0", b"GGUF\x03\0\0\0" + b"\0" * 8 + b"\x01" + b"\0" * 7):
        hostile.write_bytes(start + data)
        # Whatever it is, it is either read or refused: no other error.
        with suppress(BadInput):
            read_header(hostile)


def test_a_count_of_two_to_the_sixty_takes_no_memory(tmp_path: Path) -> None:
    for kind in (b"\x04\0\0\0", b"\x08\0\0\0"):
        array = b"\x01" + b"\0" * 7 + b"k" + b"\x09\0\0\0" + kind + b"\0" * 7 + b"\x10"
        path = tmp_path / "big.gguf"
        path.write_bytes(b"GGUF\x03\0\0\0" + b"\0" * 8 + b"\x01" + b"\0" * 7 + array)
        with pytest.raises(BadInput, match="cut short"):
            read_header(path)


def test_a_split_set_is_complete_or_refused(file: Path, tmp_path: Path) -> None:
    first = tmp_path / "m-00001-of-00002.gguf"
    first.write_bytes(file.read_bytes())
    with pytest.raises(BadInput, match=r"m-00002-of-00002\.gguf is missing"):
        read_header(first)
    second = tmp_path / "m-00002-of-00002.gguf"
    second.write_bytes(file.read_bytes())
    assert read_header(first).metadata == METADATA
    with pytest.raises(BadInput, match="part 2 of 2: give the first"):
        read_header(second)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"general.architecture": "clip"}, "vision projector"),
        ({"general.type": "mmproj"}, "vision projector"),
        ({"general.type": "adapter"}, "adapter"),
        ({"general.architecture": "bert", "bert.attention.causal": False}, "embedding model"),
        ({"llama.pooling_type": 1}, "embedding model"),
        ({"tokenizer.ggml.tokens": "none"}, "no tokenizer"),
    ],
)
def test_what_is_no_language_model_is_named(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "other.gguf", METADATA | changes)
    with pytest.raises(BadInput, match=words):
        load(str(path), "slm")


def test_without_llama_cpp_it_says_what_to_type(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_decoder, "_llama", None)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(BadInput, match=r"pip install 'hedge-hlm\[llama\]'"):
        load(str(file), "slm")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threads": 0}, "0 threads"),
        ({"threads": 10**9}, "1000000000 threads"),
        ({"context": 1}, "context 1 "),
        ({"context": 10**9}, "context 1000000000"),
        ({"gpu_layers": -1}, "gpu-layers -1"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict[str, int], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        ModelOptions(**options)  # type: ignore[arg-type]


def test_padding_names_do_not_count() -> None:
    assert vocabulary({"a": 0, "b": 1, "[PAD2]": 2, "[PAD3]": 3}) == vocabulary({"a": 0, "b": 1})
    assert vocabulary({"a": 0, "[PAD1]": 1, "b": 2})[0] == 3
    assert vocabulary({"a": 0, "[PAD7]": 1})[0] == 2
