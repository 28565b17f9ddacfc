"""Questions with one right answer, each answered by a worked solution.

Training and evaluation draw from the same families; `is_held_out` splits them by a hash of what
makes two questions the same (the operands, the word list), so that no held-out question can occur
in training whatever the seed.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hedge.common.errors import BadInput

HELD_OUT_ONE_IN = 8
ANSWER_MARK = "Answer:"
_PATIENCE = 200

WORDS = tuple(
    """apple arrow barn basket bear bell bird boat bone book bread bridge brother candle castle cat
    chair cheese child church cloak cloud coat corn cow crown dance daughter deer dinner dog
    door dragon dress duck eagle earth egg farm father feather field finger fire fish flower
    forest fox friend frog garden gate giant girl goat gold goose grass hair hand harp hat head
    heart hen hill home honey horse house hunter ice iron island jar key king kitchen knife lady
    lake lamp leaf letter lion maiden market meadow milk mill mirror moon morning mother
    mountain mouse needle nest night nut oak ocean oven owl palace paper path pearl pig plate
    pond pot prince princess queen rabbit rain ring river road robe rock roof room root rope
    rose sack sail salt sand school sea seed shadow sheep ship shoe silver sister sky sleep snow
    soldier song soup spoon spring star stone storm story stove stream street summer sun swan
    sword table tail tailor thorn thread tower town tree valley village voice wall watch water
    wheel wind window wing winter witch wolf wood wool year""".split()
)
NAMES = ("Anna", "Tom", "Mary", "John", "Rose", "Peter", "Jane", "Jack", "Lily", "Hans")
THINGS = (
    "apples",
    "nuts",
    "eggs",
    "stones",
    "coins",
    "books",
    "flowers",
    "candles",
    "pearls",
    "fish",
)


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `key` identifies it up to wording, `worked` ends with the line that holds
    `answer`.
    """

    family: str
    key: str
    text: str
    worked: str
    answer: str


def parse_answer(reply: str) -> str:
    """What follows the last "Answer:" in a reply, or the empty string when there is none."""
    _, mark, tail = reply.rpartition(ANSWER_MARK)
    return tail.strip().rstrip(".") if mark else ""


def is_correct(question: Question, reply: str) -> bool:
    """Exact match of the final answer."""
    return parse_answer(reply) == question.answer


def is_held_out(key: str) -> bool:
    digest = hashlib.blake2b(key.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0


def _question(family: str, key: object, text: str, steps: str, answer: object) -> Question:
    return Question(family, f"{family} {key}", text, f"{steps} {ANSWER_MARK} {answer}", str(answer))


def _pick(rng: np.random.Generator, *choices: str) -> str:
    return choices[int(rng.integers(len(choices)))]


def _upto(rng: np.random.Generator, limit: int) -> int:
    """An integer in 0..limit whose number of digits is about uniform."""
    digits = int(rng.integers(1, len(str(limit)) + 1))
    return int(rng.integers(0, min(limit, 10**digits - 1) + 1))


def _columns(number: int, width: int) -> list[int]:
    return [int(digit) for digit in reversed(str(number).zfill(width))]


def _add_columns(a: int, b: int) -> str:
    """Column addition from the right, a carry written as a third summand."""
    width = max(len(str(a)), len(str(b)))
    steps = []
    carry = 0
    for top, bottom in zip(_columns(a, width), _columns(b, width), strict=True):
        total = top + bottom + carry
        steps.append(f"{top}+{bottom}{'+1' if carry else ''}={total}")
        carry = total // 10
    return ", ".join(steps) + "."


def _subtract_columns(a: int, b: int) -> str:
    """Column subtraction from the right; a borrow is ten more here and -1 in the next column."""
    steps = []
    borrow = 0
    for top, bottom in zip(_columns(a, len(str(a))), _columns(b, len(str(a))), strict=True):
        lent = 10 if top - borrow < bottom else 0
        steps.append(
            f"{top + lent}{'-1' if borrow else ''}-{bottom}={top + lent - borrow - bottom}"
        )
        borrow = lent // 10
    return ", ".join(steps) + "."


def _sum(rng: np.random.Generator) -> Question:
    a = _upto(rng, 999)
    b = _upto(rng, 999 - a)
    if rng.integers(2):
        a, b = b, a
    text = _pick(
        rng,
        f"What is {a} + {b}?",
        f"What is {a} + {b}?",
        f"Add {a} and {b}.",
        f"How much is {a} plus {b}?",
    )
    return _question("sum", (a, b), text, _add_columns(a, b), a + b)


def _difference(rng: np.random.Generator) -> Question:
    a, b = sorted((_upto(rng, 999), _upto(rng, 999)), reverse=True)
    text = _pick(rng, f"What is {a} - {b}?", f"What is {a} - {b}?", f"How much is {a} minus {b}?")
    return _question("difference", (a, b), text, _subtract_columns(a, b), a - b)


def _product(rng: np.random.Generator) -> Question:
    a = int(rng.integers(2, 20))
    b = int(rng.integers(2, 13))
    tens = 10 * (a // 10) * b
    ones = (a % 10) * b
    if not ones or not tens:
        steps = f"{a}x{b}={a * b}."
    else:
        steps = f"10x{b}={tens}, {a % 10}x{b}={ones}. {_add_columns(tens, ones)}"
    text = _pick(rng, f"What is {a} x {b}?", f"What is {a} x {b}?", f"How much is {a} times {b}?")
    return _question("product", (a, b), text, steps, a * b)


def _story(rng: np.random.Generator) -> Question:
    """A word problem of two steps."""
    name, other = (str(n) for n in rng.choice(NAMES, 2, replace=False))
    thing = _pick(rng, *THINGS)
    kind = int(rng.integers(5))
    a = int(rng.integers(3, 31))
    b = int(rng.integers(2, 13))
    c = int(rng.integers(2, 13))
    if kind == 0:
        a = max(a, c + 1)
        text = (
            f"{name} has {a} {thing}. {name} finds {b} more and gives {c} to {other}. How many "
            f"{thing} does {name} have?"
        )
        steps = f"{a}+{b}={a + b}, {a + b}-{c}={a + b - c}."
        result = a + b - c
    elif kind == 1:
        a = max(a, b + c)
        text = (
            f"{name} has {a} {thing}. {name} loses {b} and gives {c} to {other}. How many "
            f"{thing} are left?"
        )
        steps = f"{a}-{b}={a - b}, {a - b}-{c}={a - b - c}."
        result = a - b - c
    elif kind == 2:
        text = (
            f"{name} has {a} {thing} and {other} has {b} more than {name}. How many {thing} do "
            "they have together?"
        )
        steps = f"{a}+{b}={a + b}, {a + b}+{a}={2 * a + b}."
        result = 2 * a + b
    elif kind == 3:
        a = 2 + a % 8
        b = 2 + b % 8
        c = min(c, a * b)
        text = (
            f"There are {a} boxes with {b} {thing} in each. {name} takes {c} {thing}. How many "
            f"{thing} are left?"
        )
        steps = f"{a}x{b}={a * b}, {a * b}-{c}={a * b - c}."
        result = a * b - c
    else:
        a = 2 + a % 8
        b = 2 + b % 8
        text = (
            f"{name} buys {a} bags with {b} {thing} in each and finds {c} more. How many "
            f"{thing} does {name} have?"
        )
        steps = f"{a}x{b}={a * b}, {a * b}+{c}={a * b + c}."
        result = a * b + c
    return _question("story", (kind, a, b, c), text, steps, result)


def _numbers(rng: np.random.Generator) -> list[int]:
    return [int(n) for n in rng.choice(np.arange(1, 100), int(rng.integers(3, 7)), replace=False)]


def _listed(items: list[int]) -> str:
    return ", ".join(map(str, items))


def _sort(rng: np.random.Generator) -> Question:
    numbers = _numbers(rng)
    left = list(numbers)
    steps = []
    while len(left) > 1:
        left.remove(least := min(left))
        steps.append(f"{least} leaves {_listed(left)}.")
    text = _pick(
        rng,
        f"Sort these numbers: {_listed(numbers)}.",
        f"Sort {_listed(numbers)} from small to large.",
    )
    return _question("sort", numbers, text, " ".join(steps), _listed(sorted(numbers)))


def _largest(rng: np.random.Generator) -> Question:
    numbers = _numbers(rng)
    so_far = [max(numbers[: i + 1]) for i in range(len(numbers))]
    text = _pick(
        rng,
        f"Which is the largest: {_listed(numbers)}?",
        f"What is the largest of {_listed(numbers)}?",
    )
    return _question("largest", numbers, text, f"Largest so far: {_listed(so_far)}.", max(numbers))


def _reverse(rng: np.random.Generator) -> Question:
    words = [str(w) for w in rng.choice(WORDS, int(rng.integers(2, 6)), replace=False)]
    indexed = [f"{i} {word}" for i, word in enumerate(words, 1)]
    text = _pick(
        rng,
        f"Say these words backwards: {' '.join(words)}.",
        f"Reverse the order of the words: {' '.join(words)}.",
    )
    steps = f"{', '.join(indexed)}. {', '.join(reversed(indexed))}."
    return _question("reverse", words, text, steps, " ".join(reversed(words)))


def _letters(rng: np.random.Generator) -> Question:
    word = str(rng.choice(WORDS))
    spelled = "-".join(word)
    if rng.integers(3) == 0:
        steps = "-".join(f"{letter}{i}" for i, letter in enumerate(word, 1))
        return _question(
            "letters", (word, "*"), f"How many letters are in {spelled}?", f"{steps}.", len(word)
        )
    letter = str(rng.choice(list(word)))
    running = "-".join(f"{c}{word[: i + 1].count(letter)}" for i, c in enumerate(word))
    text = _pick(
        rng, f"How many times is {letter} in {spelled}?", f"Count the letter {letter} in {spelled}."
    )
    return _question("letters", (word, letter), text, f"{running}.", word.count(letter))


FAMILIES: dict[str, Callable[[np.random.Generator], Question]] = {
    "sum": _sum,
    "difference": _difference,
    "product": _product,
    "story": _story,
    "sort": _sort,
    "largest": _largest,
    "reverse": _reverse,
    "letters": _letters,
}


def draw(family: str, rng: np.random.Generator, *, held_out: bool) -> Question:
    """A question of `family`, from the held-out part or from the part that training may see."""
    while True:
        question = FAMILIES[family](rng)
        if is_held_out(question.key) == held_out:
            return question


def draw_held_out(count: int, seed: int = 0) -> list[Question]:
    """`count` different held-out questions, the families taken in turn; a family that has no more
    leaves its turn.
    """
    if seed < 0:
        raise BadInput(f"question-seed {seed} is not at least 0")
    rng = np.random.default_rng(seed)
    found: dict[str, Question] = {}
    names = list(FAMILIES)
    while len(found) < count and names:
        for name in list(names):
            drawn = (draw(name, rng, held_out=True) for _ in range(_PATIENCE))
            fresh = next((question for question in drawn if question.text not in found), None)
            if fresh is None:
                names.remove(name)
            else:
                found[fresh.text] = fresh
    return list(found.values())[:count]
