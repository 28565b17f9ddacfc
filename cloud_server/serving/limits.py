"""What one client may use, and how long things may take. Knows no gRPC; the clock is given."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from hedge.common.errors import BadInput, Busy


@dataclass(frozen=True, slots=True)
class Limits:
    """Counts per client and seconds; 0 is no limit.

    `streams` at once, `tokens_per_s` positions through the model on average, `prompt` ids in an
    opening, `kv_bytes` of keys and values in all of its sessions; `sessions` of all clients
    together. `open_s` until a stream says what it wants, `idle_s` between two of its messages,
    `step_s` until a verdict, `session_s` in all.
    """

    sessions: int = 1000
    streams: int = 256
    tokens_per_s: float = 0.0
    prompt: int = 0
    kv_bytes: int = 0
    open_s: float = 10.0
    idle_s: float = 600.0
    step_s: float = 120.0
    session_s: float = 3600.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise BadInput(f"{name.replace('_', '-')} {value:g} is not a number of at least 0")


@dataclass(slots=True)
class Bucket:
    """A token bucket that may run into debt: whoever is in debt waits."""

    rate: float
    level: float
    at: float

    def take(self, amount: float, now: float) -> float:
        """Takes `amount`; the seconds until it is paid for."""
        # One second's worth may be saved up.
        self.level = min(self.rate, self.level + (now - self.at) * self.rate) - amount
        self.at = now
        return max(0.0, -self.level / self.rate)


@dataclass(slots=True)
class Quotas:
    """What every client uses at present; a token takes `token_bytes` of keys and values."""

    limits: Limits
    clock: Callable[[], float]
    token_bytes: int
    _streams: Counter[str] = field(default_factory=Counter)
    _tokens: Counter[str] = field(default_factory=Counter)
    _buckets: dict[str, Bucket] = field(default_factory=dict)

    def enter(self, client: str, prompt: int) -> None:
        """A stream is opened. Busy when the server or the client has enough of them, BadInput for
        too long a prompt.
        """
        limits = self.limits
        if limits.prompt and prompt > limits.prompt:
            raise BadInput(f"a prompt of {prompt} ids, at most {limits.prompt}")
        if limits.sessions and self._streams.total() >= limits.sessions:
            raise Busy(f"{limits.sessions} sessions are open, no more are taken")
        if limits.streams and self._streams[client] >= limits.streams:
            raise Busy(f"{limits.streams} streams are open for {client}, no more are taken")
        self.hold(client, prompt)
        self._streams[client] += 1

    def leave(self, client: str, tokens: int) -> None:
        """A stream that held `tokens` is gone."""
        self._streams[client] -= 1
        self._tokens[client] -= tokens
        if self._streams[client] <= 0:
            # The bucket stays: closing a stream does not pay a debt.
            del self._streams[client], self._tokens[client]

    def hold(self, client: str, tokens: int) -> None:
        """So many tokens more are in the client's sessions. Busy when they are too many."""
        held = self._tokens[client] + tokens
        if self.limits.kv_bytes and held * self.token_bytes > self.limits.kv_bytes:
            raise Busy(
                f"{held} tokens, {held * self.token_bytes} bytes of keys and values, in the "
                f"sessions of {client}, "
                f"at most {self.limits.kv_bytes}"
            )
        self._tokens[client] = held

    def spend(self, client: str, positions: int) -> float:
        """So many positions went through the model; the seconds this client has to wait for it."""
        if not self.limits.tokens_per_s:
            return 0.0
        now = self.clock()
        rate = self.limits.tokens_per_s
        return self._buckets.setdefault(client, Bucket(rate, rate, now)).take(positions, now)
