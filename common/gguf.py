"""The header of a GGUF file: its metadata, read with every length checked. Weights are llama.cpp's
affair.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md describes the format.
"""

import hashlib
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hedge.common.errors import BadInput

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING = 8
_ARRAY = 9
_SAMPLES = 64
_SAMPLE = 1 << 12
_LENGTH = struct.Struct("<Q")
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Header:
    """`metadata` by key; `fingerprint` of the header and of samples of the weights."""

    metadata: dict[str, Any]
    fingerprint: str

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def of_architecture(self, key: str, default: Any = None) -> Any:
        """The value of `ARCHITECTURE.key`."""
        return self.metadata.get(f"{self.architecture}.{key}", default)


def read_header(path: Path) -> Header:
    """BadInput when it is no GGUF file, is cut short, or belongs to a split set that is not
    complete.
    """
    if not path.is_file():
        raise BadInput(f"no file at {path}")
    _check_split(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(_Cursor(path, data))
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise BadInput(f"{path} is empty") from None


def _check_split(path: Path) -> None:
    if found := _SPLIT.search(path.name):
        if int(found[1]) != 1:
            raise BadInput(f"{path} is part {int(found[1])} of {int(found[2])}: give the first")
        for part in range(1, int(found[2]) + 1):
            name = f"{path.name[: found.start()]}-{part:05d}-of-{found[2]}{path.suffix}"
            if not path.with_name(name).is_file():
                raise BadInput(f"{path} has {int(found[2])} parts, and {name} is missing")


class _Cursor:
    """A place in a file, which moves on as values are read."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.at = 0

    def skip(self, count: int) -> int:
        """Moves on by `count` bytes; where it was before."""
        at = self.at
        if count > len(self.data) - at:
            raise BadInput(
                f"{self.path} is cut short: its header goes on behind its {len(self.data)} bytes"
            )
        self.at += count
        return at

    def scalar(self, form: str) -> Any:
        return struct.unpack_from(form, self.data, self.skip(struct.calcsize(form)))[0]

    def text(self) -> str:
        at = self.skip(self.scalar("<Q"))
        return self.data[at : self.at].decode("utf-8", "replace")

    def texts(self, count: int) -> list[str]:
        """`count` strings; there may be hundreds of thousands."""
        found = []
        data = self.data
        size = len(self.data)
        length_at = _LENGTH.unpack_from
        at = self.at
        for _ in range(count):
            end = at + 8
            if end <= size:
                end += length_at(data, at)[0]
            if end > size:
                self.skip(end - self.at)
            found.append(data[at + 8 : end])
            at = end
        self.at = at
        return [text.decode("utf-8", "replace") for text in found]

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner = self.scalar("<I")
            count = self.scalar("<Q")
            if inner in _SCALARS:
                form = f"<{count}{_SCALARS[inner][1]}"
                if count > len(self.data):
                    self.skip(count)
                return list(struct.unpack_from(form, self.data, self.skip(struct.calcsize(form))))
            if inner == _STRING:
                return self.texts(count)
        elif kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        raise BadInput(f"{self.path} is not a GGUF file that can be read: a value of type {kind}")


def _parse(reader: _Cursor) -> Header:
    if reader.data[:4] != MAGIC:
        raise BadInput(f"{reader.path} is not a GGUF file: it begins with {reader.data[:4]!r}")
    reader.skip(4)
    if (version := reader.scalar("<I")) not in VERSIONS:
        raise BadInput(
            f"{reader.path} is GGUF version {version}, not one of {', '.join(map(str, VERSIONS))}"
        )
    tensors = reader.scalar("<Q")
    entries = reader.scalar("<Q")
    if tensors + entries > len(reader.data):
        reader.skip(tensors + entries)
    metadata = {reader.text(): reader.value(reader.scalar("<I")) for _ in range(entries)}
    last = 0
    for _ in range(tensors):
        reader.text()
        reader.skip(8 * reader.scalar("<I") + 4)
        last = max(last, reader.scalar("<Q"))
    size = len(reader.data)
    if tensors and reader.at + last >= size:
        raise BadInput(
            f"{reader.path} is cut short: its last weights begin behind byte {reader.at + last} of "
            f"{size}"
        )
    digest = hashlib.blake2b(reader.data[: reader.at], digest_size=8)
    for sample in range(_SAMPLES):
        at = reader.at + (size - reader.at) * sample // _SAMPLES
        digest.update(reader.data[at : at + _SAMPLE])
    return Header(metadata, digest.hexdigest())
