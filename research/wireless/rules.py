"""How a transmitter chooses what it leaves out: by the priors of its model, or by what its receiver
would make of it.
"""

from typing import Literal

Rule = Literal["entropy", "true-token"]
RULES: tuple[Rule, ...] = ("entropy", "true-token")
REHEARSED = "rehearsed"
