"""The errors people are shown. Each is one line that names the value and the limit."""


class HedgeError(Exception):
    """Something failed: exit status 1, gRPC INTERNAL unless a subclass says otherwise."""


class BadInput(HedgeError):
    """A value from outside is not usable: exit status 2, gRPC INVALID_ARGUMENT."""


class NotFinite(HedgeError):
    """A model's logits that are NaN or infinite: gRPC INTERNAL."""

    def __init__(self, position: int, whose: str = "the model") -> None:
        super().__init__(f"{whose} gave no finite logits at position {position}")


class Incompatible(HedgeError):
    """The two sides, or a file and the models, do not belong together: gRPC FAILED_PRECONDITION."""


class Unreachable(HedgeError):
    """The other side cannot be reached or went away: gRPC UNAVAILABLE."""


class Disconnected(Unreachable):
    """The link or the server went away in mid-session, or is too busy: it may come back, after
    `retry_after` seconds.
    """

    def __init__(self, line: str, retry_after: float = 0.0) -> None:
        super().__init__(line)
        self.retry_after = retry_after


class Denied(HedgeError):
    """Whoever asks is not known: gRPC UNAUTHENTICATED."""


class Busy(HedgeError):
    """A quota or the server's capacity is used up, for now: gRPC RESOURCE_EXHAUSTED."""


class CodecError(BadInput):
    """Bytes that are not the encoding of a distribution."""
