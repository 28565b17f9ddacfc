import numpy as np
import pytest

from hedge.evaluation.questions import (
    FAMILIES,
    draw,
    draw_held_out,
    is_correct,
    is_held_out,
    parse_answer,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_worked_answers_are_right_and_parts_are_disjoint(family: str) -> None:
    rng = np.random.default_rng(0)
    keys: dict[bool, set[str]] = {True: set(), False: set()}
    for held_out in (True, False):
        for _ in range(400):
            question = draw(family, rng, held_out=held_out)
            assert is_correct(question, question.worked)
            assert is_held_out(question.key) == held_out
            keys[held_out].add(question.key)
    assert not keys[True] & keys[False]


def test_answers_agree_with_arithmetic() -> None:
    rng = np.random.default_rng(1)
    for family, sign in (("sum", "+"), ("difference", "-"), ("product", "*")):
        for _ in range(300):
            question = draw(family, rng, held_out=False)
            a, b = question.key.split("(")[1].rstrip(")").split(", ")
            assert (
                int(question.answer)
                == {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
            )
            for step in question.worked.partition("Answer")[0].replace(".", ",").split(","):
                if "=" in step:
                    left, right = step.split("=")
                    assert sum_of(left) == int(right), question.worked


def sum_of(expression: str) -> int:
    if "x" in expression:
        a, b = expression.split("x")
        return int(a) * int(b)
    terms = expression.strip().replace("-", "+-").split("+")
    return sum(int(term) for term in terms if term)


def test_only_the_last_answer_counts() -> None:
    assert parse_answer("Answer: 3. No: Answer: 45.") == "45"
    assert parse_answer("45") == ""


def test_a_held_out_set_is_reproducible_and_without_repeats() -> None:
    questions = draw_held_out(200, seed=3)
    assert questions == draw_held_out(200, seed=3)
    assert len({q.text for q in questions}) == 200
    assert {q.family for q in questions} == set(FAMILIES)
    assert len(draw_held_out(500)) == 500
