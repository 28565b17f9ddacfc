"""From a conversation to prompt ids, such that what a message says can never become a special token."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from common.errors import BadInput
from common.model import check_unicode, first_line

Messages = Sequence[dict[str, str]]
_PRIVATE = "\ue000"


def encode_chat(
    messages: Messages, specials: Mapping[str, int], render: Callable[[Messages], str], encode: Callable[[str, bool], list[int]]
) -> list[int]:
    """Ids of the conversation that `render` writes out. `encode(text, parse)` reads special tokens only if `parse`.

    Where a message spells a special token, its number stands between marks until the text has been cut at the template's own.
    """
    for message in messages:
        check_unicode(message["content"])
    pattern = re.compile("|".join(re.escape(text) for text in sorted(specials, key=len, reverse=True)) or r"(?!)")
    if not any(pattern.search(message["content"]) for message in messages):
        return encode(render(messages), True)
    # A longer run of a private-use character than any message has.
    mark = _PRIVATE * (1 + max(len(run) for m in messages for run in ("", *re.findall(f"{_PRIVATE}+", m["content"]))))
    names = {number: text for text, number in specials.items()}

    def restored(piece: str) -> list[int]:
        return encode(re.sub(f"{mark}(\\d+){mark}", lambda found: names[int(found[1])], piece), False)

    marked = [{**m, "content": pattern.sub(lambda found: f"{mark}{specials[found[0]]}{mark}", m["content"])} for m in messages]
    ids: list[int] = []
    text, at = render(marked), 0
    for found in pattern.finditer(text):
        ids += restored(text[at : found.start()])
        ids.append(specials[found[0]])
        at = found.end()
    return ids + restored(text[at:])


class ChatTemplate:
    """A model's Jinja template, run in a sandbox with what Hugging Face's tokenizers give one. BadInput when it is none."""

    def __init__(self, source: str, name: str, begin: str, end: str) -> None:
        from jinja2 import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self._name, self._refused = name, (TemplateError, ValueError, TypeError, RecursionError)
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals |= {
            "raise_exception": _refuse,
            "strftime_now": lambda form: datetime.now().astimezone().strftime(form),
            "bos_token": begin,
            "eos_token": end,
        }
        try:
            self._template = environment.from_string(source)
        except self._refused as error:
            raise BadInput(f"the chat template of {name} is not a Jinja template: {first_line(error)}") from None

    def render(self, messages: Messages) -> str:
        """The text with the opening of the answer. BadInput when the template refuses the conversation."""
        try:
            return self._template.render(messages=list(messages), add_generation_prompt=True)
        except self._refused as error:
            raise refused(self._name, error) from None


def refused(name: str, error: BaseException) -> BadInput:
    return BadInput(f"the chat template of {name} refuses this conversation: {first_line(error)}")


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
