"""The seam for what runs the LLM: one forward pass over chunks of many sessions, whichever runtime
does it.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from hedge.cloud_server.engines.block_manager import BlockManager
from hedge.cloud_server.engines.scheduler import ScheduledChunk
from hedge.common.errors import BadInput
from hedge.common.model import LanguageModel

DEFAULT_KV_BYTES = 1 << 30
# Tokens of a block.
BLOCK_SIZE = 16
# A pool is not made for more contexts than this.
CONTEXTS = 4096


class Engine(Protocol):
    """A model with memory for the keys and values of many sessions. One thread uses it.

    Which ids are fed where is the scheduler's affair: a chunk begins where what its session holds
    ends, whatever an earlier pass has written behind that.
    """

    @property
    def block_manager(self) -> BlockManager: ...

    @property
    def most_sessions(self) -> int | None:
        """Sessions in memory at once, None for as many as the blocks hold."""
        ...

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values per token."""
        ...

    @property
    def prefix_sharing(self) -> bool:
        """Whether several sessions may read one block."""
        ...

    def forward(self, batch: Sequence[ScheduledChunk]) -> list[np.ndarray]:
        """Feeds every chunk; float32 [chunk.rows, vocab_size] each: the raw logits after the last
        of its ids.
        """
        ...


def engine_of(
    lm: LanguageModel,
    kv_bytes: int,
    positions: int = 256,
    reproducible: bool | None = None,
    *,
    prefix_sharing: bool = True,
) -> Engine:
    """The engine of a model's runtime. A pass has at most `positions` ids.

    `reproducible`: whether the bits of a row may not depend on its company; None where that is
    cheap, in torch's bfloat16 and float16. `prefix_sharing`: whether sessions share blocks where
    the runtime can. BadInput when `kv_bytes` hold nothing, and when the runtime cannot do what is
    asked for.
    """
    from hedge.common.llama_model import LlamaModel

    if isinstance(lm, LlamaModel):
        from hedge.cloud_server.engines.llama_engine import LlamaEngine

        return LlamaEngine(lm, kv_bytes, positions, reproducible=bool(reproducible))
    from hedge.cloud_server.engines.torch_engine import TorchEngine
    from hedge.common.torch_model import TorchModel

    assert isinstance(lm, TorchModel)
    wanted = lm.model.dtype.itemsize < 4 if reproducible is None else reproducible
    return TorchEngine(lm, kv_bytes, reproducible=wanted, prefix_sharing=prefix_sharing)


def blocks_within(kv_bytes: int, token_bytes: int, context: int) -> BlockManager:
    """The blocks of a pool. BadInput when it holds no block."""
    total = kv_bytes // (token_bytes * BLOCK_SIZE)
    # One block of the pool is nobody's.
    if total < 2:
        raise BadInput(
            f"kv-bytes {kv_bytes} is less than {2 * token_bytes * BLOCK_SIZE}, two blocks of {BLOCK_SIZE} tokens"
        )
    return BlockManager(min(total, 1 + CONTEXTS * -(-context // BLOCK_SIZE)), BLOCK_SIZE)
