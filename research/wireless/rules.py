"""How a transmitter chooses what it leaves out: by its priors, or by playing its receiver."""

from typing import Literal

Rule = Literal["entropy", "true-token"]
RULES: tuple[Rule, ...] = ("entropy", "true-token")
REHEARSED = "rehearsed"
