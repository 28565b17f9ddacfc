"""What an evaluation asks: the held-out questions, or a file of prompts with references."""

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path

from hedge.common.errors import BadInput
from hedge.edge_client.cli.prompts import Prompt, from_text, read_prompts
from hedge.evaluation.judges import JUDGES, Judge, final, judge_of
from hedge.evaluation.questions import draw_held_out

FILE_FAMILY = "file"
# By their names: how they are judged.
NAMED = {"gsm8k": "last-number", "humaneval": "code"}
CODE_REQUEST = (
    "Complete this Python function. Answer with the whole function in one code block, "
    "and nothing else."
)
PROMPTS_HELP = (
    'JSONL, {"prompt": ..., "reference": ...} a line; the whole reply is compared with '
    "it (default: held-out questions)"
)


def add_tasks(parser: argparse._ActionsContainer, questions: int) -> None:
    """The options behind `tasks`."""
    parser.add_argument("--prompts", type=Path, metavar="FILE", help=PROMPTS_HELP)
    what = f"how many; 0 for all of --prompts (default {questions})"
    parser.add_argument("--questions", type=int, default=questions, help=what)
    parser.add_argument("--question-seed", type=int, default=0)


def add_judged(parser: argparse._ActionsContainer) -> None:
    """The options behind `judged_tasks`."""
    parser.add_argument(
        "--task",
        metavar="NAME|FILE",
        help=f"{', '.join(NAMED)}: a file of that name in --task-folder; or a JSONL file whose "
        "lines say how they are judged",
    )
    parser.add_argument(
        "--task-folder",
        type=Path,
        default=os.environ.get("HEDGE_TASKS") or Path.home() / ".cache" / "hedge" / "tasks",
        metavar="FOLDER",
        help="where NAME.jsonl or NAME-*.jsonl lies (default: HEDGE_TASKS, or "
        "~/.cache/hedge/tasks)",
    )
    parser.add_argument(
        "--judge",
        choices=(*JUDGES, "code"),
        help="how the replies to --task FILE or --prompts are judged",
    )
    parser.add_argument(
        "--run-code",
        action="store_true",
        help="judge code by running what the models write, on this machine",
    )


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt, and how a reply to it is judged: not at all for None."""

    prompt: Prompt
    reference: str | None
    family: str
    judge: Judge | None = None

    def is_correct(self, reply: str) -> bool | None:
        """None where nobody knows."""
        return None if self.judge is None else self.judge(reply)


def read_tasks(prompts: Path | None, count: int, seed: int) -> list[Task]:
    """The first `count` prompts of the file, all for 0; or as many held-out questions, the families
    in turn.
    """
    if count < 0 or (count == 0 and prompts is None):
        raise BadInput(f"questions {count} is not at least 1")
    if prompts is None:
        return [
            Task(from_text(q.text), q.answer, q.family, final(q.answer))
            for q in draw_held_out(count, seed)
        ]
    return _of_file(prompts, count, FILE_FAMILY, None, run_code=False)


def read_judged_tasks(args: argparse.Namespace) -> list[Task]:
    """`tasks`, or those of --task. BadInput for a file that is not there, and code that is not to
    be run.
    """
    if args.task is None:
        if args.judge and args.prompts is None:
            raise BadInput(f"--judge {args.judge} needs --task or --prompts")
        if args.prompts is None:
            return read_tasks(None, args.questions, args.question_seed)
        return _of_file(
            args.prompts, args.questions, FILE_FAMILY, args.judge, run_code=args.run_code
        )
    if args.prompts is not None:
        raise BadInput("--task and --prompts exclude each other")
    if args.task not in NAMED:
        return _of_file(
            Path(args.task),
            args.questions,
            Path(args.task).stem,
            args.judge,
            run_code=args.run_code,
        )
    folder = Path(args.task_folder)
    found = sorted([*folder.glob(f"{args.task}.jsonl"), *folder.glob(f"{args.task}-*.jsonl")])
    if not found:
        raise BadInput(
            f"no {args.task}.jsonl in {folder}: put the file there, or name its folder with "
            "--task-folder"
        )
    return _of_file(
        found[0], args.questions, args.task, args.judge or NAMED[args.task], run_code=args.run_code
    )


def _of_file(
    path: Path, count: int, family: str, judge: str | None, *, run_code: bool
) -> list[Task]:
    made = []
    for number, prompt in enumerate(read_prompts(path)[: count or None], 1):
        where = f"{path}, task {number}"
        if not run_code and (judge == "code" or (judge is None and "test" in prompt.more)):
            raise BadInput(
                f"{where} is judged by running code that a model writes: --run-code allows that"
            )
        judged = judge_of(prompt.more, prompt.text, prompt.reference, judge, where)
        made.append(
            Task(
                _asked(prompt) if "entry_point" in prompt.more else prompt,
                prompt.reference,
                family,
                judged,
            )
        )
    return made


def _asked(prompt: Prompt) -> Prompt:
    """The beginning of a function as a request."""
    last = {"role": "user", "content": f"{CODE_REQUEST}\n\n```python\n{prompt.text}```"}
    return replace(prompt, messages=(*prompt.messages[:-1], last))
