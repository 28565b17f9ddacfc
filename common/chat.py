"""From a conversation to prompt ids, such that what a message says can never become a special
token.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from hedge.common.errors import BadInput
from hedge.common.model import check_unicode, first_line

Messages = Sequence[dict[str, Any]]
# The functions that an answer may call, as OpenAI's API has them; none at all for an answer that
# may not.
Tools = Sequence[dict[str, Any]]
_PRIVATE = "\ue000"


def encode_chat(
    messages: Messages,
    specials: Mapping[str, int],
    render: Callable[[Messages, Tools], str],
    encode: Callable[[str, bool], list[int]],
    tools: Tools = (),
) -> list[int]:
    """Ids of the conversation that `render` writes out. `encode(text, parse)` reads special tokens
    only if `parse`.

    Where a message or a tool spells a special token, its number stands between marks until the text
    has been cut at the template's own.
    """
    said = list(_texts([*messages, *tools]))
    for text in said:
        check_unicode(text)
    pattern = re.compile(
        "|".join(re.escape(text) for text in sorted(specials, key=len, reverse=True)) or r"(?!)"
    )
    if not any(pattern.search(text) for text in said):
        return encode(render(messages, tools), True)
    # A longer run of a private-use character than any message has.
    mark = _PRIVATE * (
        1 + max(len(run) for text in said for run in ("", *re.findall(f"{_PRIVATE}+", text)))
    )
    names = {number: text for text, number in specials.items()}

    def restored(piece: str) -> list[int]:
        return encode(
            re.sub(f"{mark}(\\d+){mark}", lambda found: names[int(found[1])], piece), False
        )

    def marked(text: str) -> str:
        return pattern.sub(lambda found: f"{mark}{specials[found[0]]}{mark}", text)

    ids: list[int] = []
    text = render(_changed(messages, marked), _changed(tools, marked))
    at = 0
    for found in pattern.finditer(text):
        ids += restored(text[at : found.start()])
        ids.append(specials[found[0]])
        at = found.end()
    return ids + restored(text[at:])


def _texts(value: Any) -> Iterator[str]:
    """Every text in messages or tools, names in objects included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield name
            yield from _texts(part)
    elif isinstance(value, Sequence):
        for part in value:
            yield from _texts(part)


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(name): _changed(part, change) for name, part in value.items()}
    if isinstance(value, Sequence):
        return [_changed(part, change) for part in value]
    return value


class ChatTemplate:
    """A model's Jinja template, run in a sandbox with what Hugging Face's tokenizers give one.
    BadInput when it is none.
    """

    def __init__(self, source: str, name: str, begin: str, end: str) -> None:
        from jinja2 import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self._name = name
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {
            "raise_exception": _refuse,
            "strftime_now": lambda form: datetime.now().astimezone().strftime(form),
            "bos_token": begin,
            "eos_token": end,
        }
        try:
            self._template = environment.from_string(source)
        except (TemplateError, ValueError, TypeError, RecursionError) as error:
            raise BadInput(
                f"the chat template of {name} is not a Jinja template: {first_line(error)}"
            ) from None

    def render(self, messages: Messages, tools: Tools = ()) -> str:
        """The text with the opening of the answer. BadInput when the template refuses the
        conversation.
        """
        try:
            return self._template.render(
                messages=list(messages), tools=list(tools) or None, add_generation_prompt=True
            )
        except Exception as error:
            # A template is a program, and may raise anything.
            raise explain_refusal(self._name, error) from None


def explain_refusal(name: str, error: BaseException) -> BadInput:
    return BadInput(f"the chat template of {name} refuses this conversation: {first_line(error)}")


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
