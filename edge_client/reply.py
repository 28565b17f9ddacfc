"""An answer under way, whoever asked for it, and its receipt."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hedge.edge_client.engine.sequence import Provenance
from hedge.edge_client.engine.session import Emitted, Session
from hedge.edge_client.receipt import Prices, receipt_of
from hedge.edge_client.systems import GenerationConfig


@dataclass(slots=True)
class Reply:
    """`alone`: the cloud was never there, and the device answers for it. `on_receipt` is called
    with the receipt, however the answer ends.
    """

    session: Session
    config: GenerationConfig
    prices: Prices | None
    on_receipt: Callable[[dict[str, Any]], None]
    alone: bool = False
    _final: dict[str, Any] | None = field(default=None, init=False)

    async def tokens(self) -> AsyncIterator[Emitted]:
        """The tokens as they become final."""
        try:
            async for emitted in self.session.tokens():
                yield replace(emitted, provenance=Provenance.OFFLINE) if self.alone else emitted
        finally:
            self._final = self.receipt
            self.on_receipt(self._final)

    async def run(self) -> None:
        """Generates the whole answer."""
        async for _ in self.tokens():
            pass

    @property
    def receipt(self) -> dict[str, Any]:
        """Of the answer so far."""
        if self._final is not None:
            return self._final
        found = receipt_of(self.session, self.prices)
        if self.alone:
            count = found["tokens"]["all"]
            found["tokens"] = {"all": count, Provenance.OFFLINE.value: count}
            found["guarantee"] = "none"
        return found

    @property
    def provenance(self) -> list[str]:
        kinds = self.session.provenance
        return [Provenance.OFFLINE.value if self.alone else kind.value for kind in kinds]

    def to_json(self) -> dict[str, Any]:
        """The `hedge` block of the API."""
        statistics = self.session.statistics.to_json()
        return {
            "system": self.config.system,
            "guarantee": "none" if self.alone else self.session.guarantee,
            "exact": self.session.exact and not self.alone,
            "offline": self.alone or bool(statistics["offline"]),
            "seed": self.config.sampling.seed,
            "provenance": self.provenance,
            "stats": statistics,
            "receipt": self.receipt,
        }
