"""Answers that follow a grammar: which ids may come next, and which one has to. By llguidance.

A grammar is written in llguidance's JSON. Where it forces text, the ids are those that the
tokenizer has for it: then one id alone may follow, and neither model need be asked. An answer may
end, by any of its end ids, where the grammar is met.
"""

import json
from collections.abc import Collection, Sequence
from typing import Any

import llguidance
import llguidance.numpy
import numpy as np

from hedge.common.errors import BadInput
from hedge.common.model import LanguageModel

MAX_BYTES = 1 << 16
# Characters of what is told of a grammar that is none.
MAX_REASON = 300
# One way to write each value, which forces most of what is between values.
WRITTEN = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def convert_schema(schema: Any) -> str:
    """Of the JSON values that a JSON schema allows."""
    if not isinstance(schema, dict):
        raise BadInput(f"a JSON schema is an object, not {json.dumps(schema)[:40]}")
    return json.dumps(
        {"grammars": [{"json_schema": {**schema, "x-guidance": WRITTEN}}]}, ensure_ascii=False
    )


def convert_regex(pattern: str) -> str:
    """Of the texts that a regular expression matches whole."""
    return str(llguidance.LLMatcher.grammar_from_regex(pattern))


def convert_lark(source: str) -> str:
    """Of a grammar in the notation of Lark, with llguidance's additions."""
    return str(llguidance.LLMatcher.grammar_from_lark(source))


def check_size(grammar: str) -> None:
    if len(grammar) > MAX_BYTES or len(grammar.encode(errors="replace")) > MAX_BYTES:
        raise BadInput(f"a grammar of {len(grammar)} characters, at most {MAX_BYTES} bytes")


class Grammar:
    """A grammar and how far an answer has come in it. It is moved to whatever ids it is asked
    about.

    What is forced is looked up where an answer comes to it, as one run of ids, and holds until that
    run ends: so it is a function of the answer alone, whatever the grammar was asked about before.
    """

    def __init__(self, grammar: str, lm: LanguageModel, end_ids: Collection[int]) -> None:
        self._size = lm.vocab_size
        self._ends = np.array(sorted(end_ids), np.int64)
        self._matcher = llguidance.LLMatcher(lm.grammar_tokenizer, grammar, log_level=0)
        self._at: list[int] = []
        # Where runs begin, and their ids: none where nothing is forced. Behind an id that left a
        # run, a new one begins.
        self._runs: list[tuple[int, list[int]]] = []
        self._left = False
        self._mask = llguidance.numpy.allocate_token_bitmask(1, lm.grammar_tokenizer.vocab_size)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split())
            if reason.startswith("NoExtension"):
                reason = f"nothing can come at position {len(self._at)}"
            raise BadInput(f"the grammar cannot be followed: {reason[:MAX_REASON]}")

    def follow(self, ids: Sequence[int]) -> None:
        """Goes to where the answer is `ids`. BadInput when the grammar does not allow them."""
        differ = (
            number
            for number, (old, new) in enumerate(zip(self._at, ids, strict=False))
            if old != new
        )
        common = next(differ, min(len(self._at), len(ids)))
        if common < len(self._at):
            self._matcher.rollback(len(self._at) - common)
            del self._at[common:]
            self._left = False
            while self._runs and self._runs[-1][0] > common:
                self._runs.pop()
        for token in ids[common:]:
            expected = self._ahead()
            if self._matcher.try_consume_tokens([token]) != 1:
                self._check()
                raise BadInput(
                    f"id {token} at position {len(self._at)} is not what the grammar allows"
                )
            self._left = expected is not None and token != expected
            self._at.append(token)
        self._check()

    def _ahead(self) -> int | None:
        """The id that is forced here."""
        if (
            self._left
            or not self._runs
            or len(self._at) >= self._runs[-1][0] + max(1, len(self._runs[-1][1]))
        ):
            self._runs.append((len(self._at), self._matcher.compute_ff_tokens()))
            self._left = False
        start, run = self._runs[-1]
        return run[len(self._at) - start] if run else None

    def forced(self, ids: Sequence[int]) -> int | None:
        """The only id that may follow `ids`, where that is known without a look at all."""
        self.follow(ids)
        if self._matcher.is_stopped():
            return int(self._ends[0]) if len(self._ends) else None
        return self._ahead()

    def allowed(self, ids: Sequence[int]) -> np.ndarray:
        """bool [V]: what may follow `ids`."""
        allowed = np.zeros(self._size, bool)
        if (only := self.forced(ids)) is not None:
            allowed[only] = True
            return allowed
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._mask, 0)
        self._check()
        allowed[:] = np.unpackbits(
            self._mask.view(np.uint8)[0], bitorder="little", count=self._size
        )
        allowed[self._ends] = self._matcher.is_accepting()
        if not allowed.any():
            raise BadInput(f"the grammar allows nothing at position {len(self._at)}")
        return allowed
