"""How an answer is judged, the same for every system: by its last number, text, an expression, a
letter, or by running it.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

from hedge.common.errors import BadInput
from hedge.evaluation.questions import parse_answer
from hedge.evaluation.run_code import run_to_end

# Of a reply, whether it is right. They travel to other processes.
Judge = Callable[[str], bool]
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_LETTER = re.compile(r"\b([A-J])\b")
_ANSWERED = re.compile(r"answer(?: is)?:?\s*\**\(?([A-J])\b", re.IGNORECASE)
_BLOCK = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)


def exact(reference: str) -> Judge:
    """The whole reply."""
    return partial(_is_whole, reference.strip())


def _is_whole(expected: str, reply: str) -> bool:
    return reply.strip() == expected


def final(reference: str) -> Judge:
    """What follows "Answer:"."""
    return partial(_is_final, reference.strip())


def _is_final(expected: str, reply: str) -> bool:
    return parse_answer(reply) == expected


def last_number(reference: str) -> Judge:
    """The last number of the reply, without commas. BadInput for a reference that has none."""
    if (expected := number_of(reference)) is None:
        raise BadInput(f"reference {reference[:40]!r} has no number")
    return partial(_is_last, expected)


def _is_last(expected: Decimal, reply: str) -> bool:
    return number_of(reply) == expected


def number_of(text: str) -> Decimal | None:
    found = _NUMBER.findall(text)
    try:
        return Decimal(found[-1].replace(",", "")) if found else None
    except InvalidOperation:
        return None


def regex(reference: str) -> Judge:
    """An expression that is found in the reply. BadInput for one that is none."""
    try:
        pattern = re.compile(reference)
    except re.error as error:
        raise BadInput(
            f"reference {reference[:40]!r} is not a regular expression: {error}"
        ) from None
    return partial(_is_found, pattern)


def _is_found(pattern: re.Pattern[str], reply: str) -> bool:
    return pattern.search(reply) is not None


def choice(reference: str) -> Judge:
    """The letter behind the last "answer", or else the last letter A to J that stands alone."""
    if not re.fullmatch("[A-J]", reference.strip()):
        raise BadInput(f"reference {reference[:40]!r} is not a letter A to J")
    return partial(_is_chosen, reference.strip())


def _is_chosen(letter: str, reply: str) -> bool:
    said = _ANSWERED.findall(reply) or _LETTER.findall(reply)
    return bool(said) and said[-1].upper() == letter


def code(prompt: str, test: str, entry_point: str) -> Judge:
    """Whether `test`, which defines check(candidate), passes on the function that the reply writes
    (Chen 2021).
    """
    return partial(_passes, prompt, test, entry_point)


def _passes(prompt: str, test: str, entry_point: str, reply: str) -> bool:
    return run_to_end(
        f"{program_of(prompt, reply, entry_point)}\n\n{test}\n\ncheck({entry_point})\n"
    )


def program_of(prompt: str, reply: str, entry_point: str) -> str:
    """The function whole, where the reply writes it so; else the prompt with what the reply goes on
    with.
    """
    blocks = _BLOCK.findall(reply)
    defined = [block for block in blocks if f"def {entry_point}" in block]
    if defined:
        # What the prompt imports and defines may be needed by it.
        return f"{prompt}    pass\n\n{defined[-1]}"
    if f"def {entry_point}" in reply and not blocks:
        return f"{prompt}    pass\n\n{reply}"
    return prompt + (blocks[-1] if blocks else reply)


JUDGES: dict[str, Callable[[str], Judge]] = {
    "exact": exact,
    "last-number": last_number,
    "regex": regex,
    "choice": choice,
}


def judge_of(
    row: Mapping[str, Any], prompt: str, reference: str | None, wanted: str | None, where: str
) -> Judge | None:
    """How a line of a file is judged: by `wanted`, by what it says, by its tests, or exactly; None
    without a reference.
    """
    name = wanted or row.get("judge")
    if name is None and "test" in row:
        name = "code"
    if name == "code":
        test = row.get("test")
        entry = row.get("entry_point")
        if not isinstance(test, str) or not isinstance(entry, str) or not entry.isidentifier():
            raise BadInput(f"{where}: judge code needs the texts test and entry_point")
        return code(prompt, test, entry)
    if reference is None:
        return None
    if name is not None and name not in JUDGES:
        raise BadInput(f"{where}: judge {name!r} is not one of {', '.join([*JUDGES, 'code'])}")
    try:
        return JUDGES[name or "exact"](reference)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
