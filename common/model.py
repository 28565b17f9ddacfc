"""The seam for a language model: what the rest of the code needs of one, whichever runtime runs it.
It does not know the runtimes: `loading.py` chooses one.
"""

import hashlib
import importlib.resources
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hedge.common.errors import BadInput
from hedge.common.model_options import MAX_CONTEXT, ModelOptions

BUNDLED = "bundled"
PRIMER = "primer.json"
# A context up to this takes little memory with any model, and is not worth a line about it.
SMALL_CONTEXT = 2048


def bundled_folder() -> Path:
    """Where the bundled pair and its calibrations lie."""
    return Path(str(importlib.resources.files("hedge.pair")))


class KVCache(Protocol):
    """The keys and values of one sequence: what has been fed, to which `forward` adds and from
    which `rollback` takes.
    """

    @property
    def length(self) -> int: ...

    def forward(self, ids: Sequence[int], rows: int | None = None) -> np.ndarray:
        """Feeds `ids`; float32 [rows, vocab_size]: the raw logits after each of the last `rows` of
        them (all by default).
        """
        ...

    def rollback(self, length: int) -> None:
        """Forgets everything after the first `length` ids. ValueError when there are fewer."""
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """What a model is called and what it has in common with others.

    `vocab_size` is the tokenizer's; rows of logits beyond it are padding and cut off. `begin_id`
    stands before a text where the tokenizer has one. `context` ids at most are fed, of the
    `trained_context` that the model knows.
    """

    name: str
    fingerprint: str
    tokenizer_fingerprint: str
    vocab_size: int
    context: int
    trained_context: int
    end_ids: tuple[int, ...]
    begin_id: int | None = None


class LanguageModel(ABC):
    """A decoder and its tokenizer. `chat_template` is the source of its template, if it has one."""

    chat_template = ""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.name = identity.name
        self.fingerprint = identity.fingerprint
        self.tokenizer_fingerprint = identity.tokenizer_fingerprint
        self.vocab_size = identity.vocab_size
        self.context = identity.context
        self.end_ids = identity.end_ids
        self.begin_id = identity.begin_id
        # Ids that what is said will resemble; both sides start the coding of ids from them. They
        # come with a tokenizer, whichever model has it.
        self.primer = _primers().get(self.tokenizer_fingerprint, ())
        self.primer_fingerprint = digest(json.dumps(self.primer).encode()) if self.primer else ""

    @abstractmethod
    def kv_cache(self) -> KVCache:
        """An empty cache."""

    @abstractmethod
    def encode_chat(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()
    ) -> list[int]:
        """Prompt ids of a conversation, by the tokenizer's chat template, or plain text. BadInput
        when refused.

        `tools` may be called in the answer. Special tokens that a message or a tool spells out stay
        text.
        """

    @abstractmethod
    def encode_text(self, text: str) -> list[int]:
        """Prompt ids of a text to go on with. Special tokens in it stay text."""

    def encode_infill(self, before: str, behind: str) -> list[int]:
        """Prompt ids of what is to be filled in between two texts. BadInput for a tokenizer that
        has no tokens for that.
        """
        raise BadInput(f"the tokenizer of {self.name} has no tokens for filling in the middle")

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens; U+FFFD where characters are incomplete."""

    @abstractmethod
    def describe(self) -> str:
        """The runtime, its build and its threads, for people."""

    @cached_property
    def grammar_tokenizer(self) -> Any:
        """The tokenizer as llguidance knows one. BadInput for a kind it cannot work with."""
        if not self.end_ids:
            raise BadInput(f"{self.name} has no id that ends an answer, which a grammar needs")
        try:
            return self._grammar_tokenizer()
        except ValueError as error:
            raise BadInput(
                f"no grammar can be followed with the tokenizer of {self.name}: {first_line(error)}"
            ) from None

    def _grammar_tokenizer(self) -> Any:
        """ValueError for one that llguidance cannot work with."""
        raise ValueError("it is not known there")

    @cached_property
    def chat_fingerprint(self) -> str:
        """Names how a conversation becomes ids; empty when the chat template refuses the shortest
        one, or writes the date.
        """
        if "strftime_now" in self.chat_template:
            return ""
        try:
            return digest(
                json.dumps(self.encode_chat([{"role": "user", "content": "Hello"}])).encode()
            )
        except BadInput:
            return ""

    def token_text(self, token: int) -> bytes:
        """What an id stands for in a text: nothing for special ones, a part of the bytes for a part
        of a character.
        """
        if not self.decode([token]):
            return b""
        try:
            return bytes(self.grammar_tokenizer.decode_bytes([token]))
        except BadInput:
            return self.decode([token]).encode()

    def warm_up(self) -> None:
        """A pass for nobody: the first one of a process is slower than all others."""
        self.kv_cache().forward([0] * min(16, self.context))


class WrappedModel(LanguageModel):
    """Another model's tokenizer and name: for those that answer differently."""

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__(lm.identity)
        self.lm = lm

    def encode_chat(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()
    ) -> list[int]:
        return self.lm.encode_chat(messages, tools)

    def encode_text(self, text: str) -> list[int]:
        return self.lm.encode_text(text)

    def encode_infill(self, before: str, behind: str) -> list[int]:
        return self.lm.encode_infill(before, behind)

    def decode(self, ids: Sequence[int]) -> str:
        return self.lm.decode(ids)

    def describe(self) -> str:
        return self.lm.describe()

    def _grammar_tokenizer(self) -> Any:
        return self.lm.grammar_tokenizer


def context_line(lm: LanguageModel, options: ModelOptions) -> str | None:
    """What is to be said of a context that is smaller than the model's although nobody asked for
    that.
    """
    known = lm.identity.trained_context
    if options.context is not None or lm.context >= known:
        return None
    return (
        f"context {lm.context}: {lm.name} knows {known} tokens, and their keys and values do not "
        "fit half of the free memory"
    )


def check_unicode(text: str) -> None:
    """BadInput for half a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(
            f"the prompt is not Unicode: {text[error.start]!a} at character {error.start}"
        ) from None


def strip_end(ids: list[int], text: Sequence[int], ends: Collection[int]) -> list[int]:
    """A prompt's ids, those of `text` with what the tokenizer puts around them, without an end
    behind them.
    """
    # A lone one before no text at all is where the text begins.
    while (
        len(ids) > (not text) and ids[-1] in ends and not (text and ids[-len(text) :] == list(text))
    ):
        ids = ids[:-1]
    return ids


def vocabulary(words: Mapping[str, int]) -> tuple[int, str]:
    """Size and fingerprint of a tokenizer, without the `[PAD123]` that a GGUF adds for the padded
    rows of its model.
    """
    size = max(words.values()) + 1
    padding = {number for word, number in words.items() if word == f"[PAD{number}]"}
    while size - 1 in padding:
        size -= 1
    kept = sorted((word, number) for word, number in words.items() if number < size)
    return size, digest(json.dumps(kept, ensure_ascii=True).encode())


def choose_context(model: int, token_bytes: int, wanted: int | None, where: str) -> int:
    """Ids that may be fed: `wanted`, or as many as the model knows and as fit into half of the
    memory that is free.
    """
    if wanted is not None and wanted > model:
        raise BadInput(f"context {wanted} is more than the {model} of {where}")
    free = free_memory()
    fits = MAX_CONTEXT if free is None else max(SMALL_CONTEXT, free // 2 // token_bytes)
    if wanted is None:
        return min(model, fits)
    if wanted > fits:
        raise BadInput(
            f"context {wanted} of {where} takes {wanted * token_bytes / 1e9:.1f} GB of keys and "
            "values, and half of the free "
            f"memory holds {fits}"
        )
    return wanted


def free_memory() -> int | None:
    """Bytes that programs can still get, where the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    words = found.get("MemAvailable", "").split()
    return int(words[0]) * 1024 if words else None


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


@cache
def _primers() -> dict[str, tuple[int, ...]]:
    data = json.loads((bundled_folder() / PRIMER).read_text("utf-8"))
    return {data["tokenizer"]: tuple(data["ids"])}
