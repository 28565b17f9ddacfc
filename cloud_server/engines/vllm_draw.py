"""The coupled draw inside of vLLM, for answers that it streams: its workers import this file.

vLLM chooses greedily, and finds the token that the noise of its position draws, by the very
functions of the other engines.
"""

from typing import Any

import numpy as np
import torch
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from hedge.cloud_server.sessions.steps import Draws
from hedge.common.coupling import draw_coupled
from hedge.common.noise import Noise
from hedge.common.sampling import Warp

# In `extra_args` of a request.
NAME = "hedge"


def arguments(draws: Draws, vocab_size: int) -> dict[str, Any]:
    """What a request carries."""
    warp = draws.warp
    return {
        NAME: {
            "key": list(draws.noise.key),
            "position": draws.position,
            "warp": [warp.temperature, warp.top_k, warp.top_p, warp.min_p],
            "vocab_size": vocab_size,
        }
    }


class _Draw:
    """Of one request."""

    def __init__(self, key: list[int], position: int, warp: list[Any], vocab_size: int) -> None:
        self._noise = Noise.of_key(key)
        self._position = position
        self._warp = Warp(*warp)
        self._vocab_size = vocab_size

    def __call__(self, output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        """-inf everywhere but at the drawn token."""
        row = logits[: self._vocab_size].float().cpu().numpy()
        if not np.isfinite(row).all():
            # Its logprobs say so, and the answer ends; an error here would end the engine.
            return logits
        token = draw_coupled(self._noise, self._position + len(output_ids), self._warp(row))
        drawn = torch.full_like(logits, -torch.inf)
        drawn[token] = 0
        return drawn


class CoupledDraw(AdapterLogitsProcessor):  # type: ignore[misc]
    """Acts on the requests that carry a noise key; all others are left as they are."""

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: Any) -> _Draw | None:
        wanted = (params.extra_args or {}).get(NAME)
        return _Draw(**wanted) if wanted else None
