"""What an answer reports while it is under way."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class EventKind(StrEnum):
    """The link died, it lives again, or the SLM gave no finite logits and the cloud is asked."""

    LINK_LOST = "link lost"
    LINK_REGAINED = "link regained"
    SLM_NOT_FINITE = "SLM not finite"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, and the line that tells a person of it."""

    kind: EventKind
    line: str

    def __str__(self) -> str:
        return self.line


Notify = Callable[[Event], None]
