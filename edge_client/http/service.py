"""What only the HTTP API needs of the way to an answer: its systems, its counts, and the device's
own answers while the cloud is away.
"""

from collections.abc import Callable

from hedge.common.errors import BadInput, Disconnected
from hedge.edge_client.client import AsyncHedge
from hedge.edge_client.http.api_request import ApiRequest
from hedge.edge_client.http.metrics import Metrics
from hedge.edge_client.reply import Reply
from hedge.edge_client.systems import GenerationConfig
from hedge.edge_client.transport.events import Notify


class Service:
    """`configure` gives the configuration of a system by its name."""

    def __init__(
        self,
        hedge: AsyncHedge,
        configure: Callable[[str], GenerationConfig],
        metrics: Metrics | None = None,
    ) -> None:
        self.hedge = hedge
        self.slm = hedge.slm
        self._configure = configure
        self.metrics = metrics or Metrics()
        self.metrics.up.set_function(lambda: self.up)

    @property
    def up(self) -> bool:
        """Whether the link was alive when it was last heard of."""
        return self.hedge.watch.up

    def reply(self, asked: ApiRequest, ids: list[int], seed: int, notify: Notify) -> Reply:
        """An answer as it was asked for; `notify` hears of the link.

        Disconnected when the system needs a cloud, none answers, and the device is not to go on
        alone.
        """
        config = asked.configure(self._configure(asked.model), seed)
        alone = config.needs_cloud and not self.up
        if alone:
            self._check_alone(config)
            config = asked.configure(self._configure("slm"), seed)
        return self.hedge.reply(ids, config, notify, alone=alone)

    def _check_alone(self, config: GenerationConfig) -> None:
        cloud = self.hedge.watch.cloud
        if cloud is None:
            raise BadInput(
                f"model {config.system} needs a cloud, and this device answers alone "
                "(--local-only): model slm does"
            )
        if config.link.on_disconnect != "continue":
            address = ",".join(cloud.addresses)
            raise Disconnected(
                f"no Hedge cloud answers at {address} now; model slm needs none", 1.0
            )
