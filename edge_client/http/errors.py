"""What ends a request of the HTTP API, in the shape that clients know."""

from typing import Any

# Characters of a refused value that are shown.
SHOWN = 60


class ApiError(Exception):
    """Ends a request with an HTTP status and an error object."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code

    def to_json(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {
            "error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        }


def shown(value: object) -> str:
    try:
        text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except RecursionError:
        text = "of that depth"
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
