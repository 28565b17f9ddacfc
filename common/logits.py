"""What is done to logits before the warp: penalties, bias, grammar. The same function on the device
and in the cloud.

Of the ids of the prompt and the answer so far alone, so that what the cloud draws does not depend
on what was drafted.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from hedge.common.errors import BadInput
from hedge.common.grammar import Grammar, check_size
from hedge.common.model import LanguageModel

MAX_BIASES = 1024
# Of a token that cannot be drawn: no share of any softmax, and finite at any temperature.
NEVER = np.float32(-1e20)
_LARGEST = 2.0


@dataclass(frozen=True, slots=True)
class LogitsOptions:
    """What is done, in this order, where it is not off.

    `repetition_penalty` r divides positive logits by r and multiplies negative ones, of ids in the
    prompt or the answer (Keskar 2019). `presence_penalty` and `frequency_penalty` are taken off the
    logits of ids in the answer: once, and for each time. `logit_bias` is added, by id. The whole
    answer follows `grammar`, in llguidance's notation.
    """

    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: str = ""

    def __post_init__(self) -> None:
        if not 0.1 <= self.repetition_penalty <= 10:
            raise BadInput(f"repetition-penalty {self.repetition_penalty:g} is not in 0.1..10")
        for name in ("presence_penalty", "frequency_penalty"):
            if not abs(value := getattr(self, name)) <= _LARGEST:
                raise BadInput(f"{name.replace('_', '-')} {value:g} is not in -2..2")
        if len(self.logit_bias) > MAX_BIASES:
            raise BadInput(f"{len(self.logit_bias)} logit biases, at most {MAX_BIASES}")
        for token, bias in self.logit_bias:
            if not (token >= 0 and abs(bias) <= 100):
                raise BadInput(
                    f"logit-bias {token}={bias:g} is not an id and a number in -100..100"
                )
        check_size(self.grammar)

    @property
    def penalises(self) -> bool:
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (
            1.0,
            0.0,
            0.0,
        )

    def __bool__(self) -> bool:
        """Whether anything is done at all."""
        return self.penalises or bool(self.logit_bias) or bool(self.grammar)


class LogitsProcessor:
    """Of one answer: the last `len(ids) - prompt` of the ids it is shown are the answer's.
    `end_ids` end it.

    BadInput for ids that the model does not have, and a grammar that cannot be met.
    """

    def __init__(
        self, options: LogitsOptions, lm: LanguageModel, prompt: int, end_ids: Collection[int]
    ) -> None:
        self.options = options
        self._prompt = prompt
        self._end_ids = end_ids
        for token, _ in options.logit_bias:
            if token >= lm.vocab_size:
                raise BadInput(f"logit-bias of id {token} in a vocabulary of {lm.vocab_size}")
        self._bias_ids = np.array([token for token, _ in options.logit_bias], np.int64)
        self._biases = np.array([bias for _, bias in options.logit_bias], np.float32)
        self._grammar = Grammar(options.grammar, lm, end_ids) if options.grammar else None

    def __call__(self, logits: np.ndarray, ids: Sequence[int]) -> np.ndarray:
        """float32 [V]: what takes the place of the raw logits [V] after `ids`."""
        if not self.options:
            return logits
        logits = logits.astype(np.float32)
        if self.options.penalises:
            self._penalise(logits, np.asarray(ids, np.int64))
        np.add.at(logits, self._bias_ids, self._biases)
        if self._grammar:
            logits[~self._grammar.allowed(ids[self._prompt :])] = NEVER
        return logits

    def forced(self, ids: Sequence[int]) -> int | None:
        """The only id that can follow, where the grammar says it."""
        return self._grammar.forced(ids[self._prompt :]) if self._grammar else None

    def check(self, ids: Sequence[int]) -> None:
        """BadInput for an answer so far that the grammar does not know, or behind which it allows
        nothing.
        """
        answer = ids[self._prompt :]
        if self._grammar and not (answer and answer[-1] in self._end_ids):
            self._grammar.allowed(answer)

    def _penalise(self, logits: np.ndarray, ids: np.ndarray) -> None:
        options = self.options
        seen = np.unique(ids)
        held = logits[seen]
        logits[seen] = np.where(
            held > 0, held / options.repetition_penalty, held * options.repetition_penalty
        )
        said, counts = np.unique(ids[self._prompt :], return_counts=True)
        taken = options.presence_penalty + options.frequency_penalty * counts
        logits[said] -= taken.astype(np.float32)


def logprobs(logits: np.ndarray, token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """ln of the model's own probability of `token`, raw `logits` [V], and of its `count` likeliest
    tokens, falling.
    """
    shifted = logits.astype(np.float64) - float(logits.max())
    total = math.log(float(np.exp(shifted).sum()))
    first = np.argpartition(-shifted, min(count, len(shifted) - 1))[:count]
    order = first[np.lexsort((first, -shifted[first]))]
    return float(shifted[token]) - total, [(int(one), float(shifted[one]) - total) for one in order]
