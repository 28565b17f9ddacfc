"""Answers on disk: one JSONL file per run, a header and then one line per answer, appended as they
come.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hedge.common.errors import BadInput, HedgeError
from hedge.edge_client.engine.session import Session
from hedge.edge_client.engine.statistics import Round
from hedge.evaluation.tasks import Task

VERSION = 2


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """What one task came to. `correct` is None without a reference; `risk` sums beta over `audited`
    tokens' skipped ones.
    """

    task: int
    family: str
    prompt: str
    reference: str | None
    text: str
    correct: bool | None
    prompt_ids: list[int]
    token_ids: list[int]
    provenance: list[str]
    log: list[Round]
    steps: int
    audited: int
    risk: float
    slm_s: float
    wall_s: float
    codec_bytes: int
    payload_bytes: tuple[int, int]
    socket_bytes: tuple[int, int] | None
    # Positions that rounding could decide: files of before that was kept have none.
    near_ties: int = 0

    @property
    def skipped(self) -> int:
        return sum(kind in ("local", "offline") for kind in self.provenance)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"log": [list(asdict(round_).values()) for round_ in self.log]}


def record_answer(index: int, task: Task, prompt_ids: list[int], session: Session) -> AnswerRecord:
    s = session.statistics
    sockets = None
    if s.uplink_socket_bytes is not None and s.downlink_socket_bytes is not None:
        sockets = (s.uplink_socket_bytes, s.downlink_socket_bytes)
    return AnswerRecord(
        task=index,
        family=task.family,
        prompt=task.prompt.text,
        reference=task.reference,
        text=session.text,
        correct=task.is_correct(session.text),
        prompt_ids=prompt_ids,
        token_ids=session.token_ids,
        provenance=[kind.value for kind in session.provenance],
        log=s.log,
        steps=s.steps,
        audited=s.audited,
        risk=s.risk,
        slm_s=s.slm_s,
        wall_s=s.wall_s,
        codec_bytes=s.uplink_codec_bytes,
        payload_bytes=(s.uplink_payload_bytes, s.downlink_payload_bytes),
        socket_bytes=sockets,
        near_ties=s.near_ties,
    )


def parse_answer(data: dict[str, Any]) -> AnswerRecord:
    pairs = {
        name: tuple(data[name]) if data[name] else None
        for name in ("payload_bytes", "socket_bytes")
    }
    return AnswerRecord(**data | pairs | {"log": [Round(*values) for values in data["log"]]})


class Journal:
    """An append-only JSONL file whose first line says what it is. A line cut short by a crash is
    dropped.
    """

    def __init__(self, path: Path, header: dict[str, Any], *, resume: bool) -> None:
        """BadInput when the file exists without `resume`, or is of another run, version or kind."""
        self.path = path
        self.header = header
        self.entries: list[dict[str, Any]] = []
        known = {"version": VERSION, **json.loads(json.dumps(header))}
        if path.exists() and path.stat().st_size:
            if not resume:
                raise BadInput(f"{path} exists: --resume goes on with it, or remove it")
            found, self.entries, whole = _read(path)
            if found is not None and found != known:
                wrong = sorted(
                    key for key in found.keys() | known.keys() if found.get(key) != known.get(key)
                )
                raise BadInput(
                    f"{path} is of another run: {', '.join(f'{k} {found.get(k)!r}' for k in wrong)}"
                )
            try:
                os.truncate(path, whole if found is not None else 0)
            except OSError as error:
                raise HedgeError(f"cannot write {path}: {error.strerror}") from None
            if found is not None:
                return
        self._write(known)

    def append(self, entry: dict[str, Any]) -> None:
        self._write(entry)
        self.entries.append(entry)

    def _write(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=False) + "\n"
        before = self.path.stat().st_size if self.path.exists() else 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            if self.path.is_file():
                os.truncate(self.path, before)
            raise HedgeError(f"cannot write {self.path}: {error.strerror}") from None


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Holds a folder for this process: two runs in one would answer everything twice."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise HedgeError(f"cannot write {folder}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise HedgeError(f"another run is writing to {folder}") from None
        yield


def _read(path: Path) -> tuple[dict[str, Any] | None, list[dict[str, Any]], int]:
    """The header (None when not even that is whole), the entries, and the bytes that whole lines
    take.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    whole = data.rfind(b"\n") + 1
    lines = [
        _parse(line, f"{path}:{number}") for number, line in enumerate(data[:whole].splitlines(), 1)
    ]
    if not lines:
        return None, [], 0
    if lines[0].get("version") != VERSION:
        raise BadInput(f"{path} is of version {lines[0].get('version')}, not {VERSION}")
    return lines[0], lines[1:], whole


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise BadInput(f"{where}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadInput(f"{where}: not an object")
    return found


def read_journal(path: Path, kind: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and entries of a finished or unfinished file. BadInput when it is not of `kind`."""
    header, entries, _ = _read(path)
    if header is None or header.get("kind") != kind:
        raise BadInput(
            f"{path} is {'empty' if header is None else repr(header.get('kind'))}, not a file of "
            f"{kind}"
        )
    return header, entries


def parse_answers(path: Path, entries: Iterable[dict[str, Any]]) -> list[AnswerRecord]:
    """BadInput names the line that is no answer."""
    found = []
    for number, entry in enumerate(entries, 2):
        try:
            found.append(parse_answer(entry))
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{path}:{number}: no answer: {error!r}") from None
    return found
