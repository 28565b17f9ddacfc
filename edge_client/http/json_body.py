"""The JSON of a request's body, read strictly."""

import json
from collections.abc import Iterable
from typing import Any

from hedge.edge_client.http.errors import ApiError, shown

MAX_DEPTH = 100


def read_body(data: bytes) -> object:
    """What the bytes of a body say. ApiError: not JSON as RFC 8259 has it, a name that comes twice,
    nested too deep.
    """
    try:
        body = json.loads(data, object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError:
        raise ApiError(400, "the body is nested too deep") from None
    except ValueError:
        raise ApiError(400, "the body is not JSON") from None
    level = [body]
    for _ in range(MAX_DEPTH):
        level = [part for one in level for part in _parts(one)]
    if level:
        raise ApiError(400, f"the body is nested too deep: more than {MAX_DEPTH} levels")
    return body


def _parts(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ApiError(400, f"the name {shown(name)} is not Unicode")
        if name in found:
            raise ApiError(400, f"{shown(name)} comes twice in an object", param=name)
        found[name] = value
    return found


def _no_number(name: str) -> Any:
    raise ApiError(400, f"{name} is not a number that JSON has")
