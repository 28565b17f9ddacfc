"""What an evaluation asks: the held-out questions, or a file of prompts with references."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from common.errors import BadInput
from edge_client.cli.prompts import Prompt, from_text, read_prompts
from evaluation.questions import held_out_set, parse_answer

FILE_FAMILY = "file"
PROMPTS_HELP = (
    'JSONL, {"prompt": ..., "reference": ...} a line; the whole reply is compared with it (default: held-out questions)'
)


def add_tasks(parser: argparse._ActionsContainer, questions: int) -> None:
    """The options behind `tasks`."""
    parser.add_argument("--prompts", type=Path, metavar="FILE", help=PROMPTS_HELP)
    what = f"how many; 0 for all of --prompts (default {questions})"
    parser.add_argument("--questions", type=int, default=questions, help=what)
    parser.add_argument("--question-seed", type=int, default=0)


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt with its reference answer; `final` compares what follows "Answer:", otherwise the whole reply counts."""

    prompt: Prompt
    reference: str | None
    family: str
    final: bool

    def is_correct(self, reply: str) -> bool | None:
        """Exact match; None without a reference."""
        if self.reference is None:
            return None
        return (parse_answer(reply) if self.final else reply.strip()) == self.reference.strip()


def tasks(prompts: Path | None, count: int, seed: int) -> list[Task]:
    """The first `count` prompts of the file, all for 0; or as many held-out questions, the families in turn."""
    if count < 0 or (count == 0 and prompts is None):
        raise BadInput(f"questions {count} is not at least 1")
    if prompts is None:
        return [Task(from_text(q.text), q.answer, q.family, final=True) for q in held_out_set(count, seed)]
    found = read_prompts(prompts)
    return [Task(prompt, prompt.reference, FILE_FAMILY, final=False) for prompt in found[: count or None]]
