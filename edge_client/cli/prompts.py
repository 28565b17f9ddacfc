"""Prompts from the command line or from JSONL files."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hedge.common.errors import BadInput
from hedge.common.files import TEXT


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that ends with a user turn, and the reference answer where one is known."""

    messages: tuple[dict[str, str], ...]
    reference: str | None = None
    # What else the line of a file says.
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.messages[-1]["content"]


def from_text(text: str) -> Prompt:
    if not text.strip():
        raise BadInput("the prompt is empty")
    return Prompt(({"role": "user", "content": text},))


def read_prompts(path: Path) -> list[Prompt]:
    """`{"prompt": str}` or `{"messages": [...]}` per line, `reference` optional. BadInput names the
    line.
    """
    try:
        lines = path.read_text(TEXT).split("\n")
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8: {error.reason}") from None
    prompts = [
        _parse(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()
    ]
    if not prompts:
        raise BadInput(f"{path} holds no prompt")
    return prompts


def _parse(line: str, where: str) -> Prompt:
    try:
        data: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise BadInput(f"{where}: not an object")
    reference = data.get("reference")
    if reference is not None and not isinstance(reference, str):
        raise BadInput(f"{where}: reference is not a string")
    messages = check_messages(
        data.get("messages", [{"role": "user", "content": data.get("prompt")}]), where
    )
    if not messages[-1]["content"].strip():
        raise BadInput(f"{where}: the prompt is empty")
    more = {
        name: value
        for name, value in data.items()
        if name not in ("prompt", "messages", "reference")
    }
    return Prompt(tuple(messages), reference, more)


def check_messages(value: object, where: str) -> list[dict[str, str]]:
    """A conversation, nothing else in it. BadInput names `where` it is none."""
    if not isinstance(value, list) or not value:
        raise BadInput(f"{where}: needs a prompt or a non-empty list of messages")
    for message in value:
        if not isinstance(message, dict) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise BadInput(
                f"{where}: needs a prompt string, or messages with role and content strings"
            )
    return [{"role": message["role"], "content": message["content"]} for message in value]
