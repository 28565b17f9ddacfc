"""One forward pass over slices of many sessions: ragged lengths, each row's keys and values in pages of its own.

The new ids of all sessions run through the model as one row, so that its large products see no padding. Only attention is a
padded rectangle: `ragged_attention` folds the row into one per session and back.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cloud_server.pages import Pages
from cloud_server.scheduler import Slice
from common.errors import BadInput
from common.model import CausalLM, cache_argument

PAGE = 16
ATTENTION = "hedge_ragged"


@dataclass(frozen=True, slots=True)
class Plan:
    """Where things are in a pass over T new ids of B sessions, int64.

    `row` and `column` [T]: the place of each id in the padded rectangle; `slots` [T]: where its key and value go; `read`
    [B, longest]: where those of every session lie.
    """

    row: torch.Tensor
    column: torch.Tensor
    slots: torch.Tensor
    read: torch.Tensor


_running = threading.local()


def ragged_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Attention of [1, heads, T, size] over keys and values [B, heads, longest, size]: [1, T, heads, size].

    Outside an Engine's pass it is plain scaled dot product attention.
    """
    plan: Plan | None = getattr(_running, "plan", None)
    if plan is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    rows, width = plan.read.shape[0], attention_mask.shape[2]
    padded = query.new_zeros(rows, query.shape[1], width, query.shape[3])
    padded[plan.row, :, plan.column] = query[0].transpose(0, 1)
    out, _ = sdpa_attention_forward(module, padded, key, value, attention_mask, **kwargs)
    return out[plan.row, plan.column][None], None


AttentionInterface.register(ATTENTION, ragged_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class PagedLayer(CacheLayerMixin):
    """Keys and values of one layer, [slots, heads, size], as many slots as the pages hold tokens."""

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._capacity = capacity

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        heads = key_states.shape[1]
        self.keys = key_states.new_zeros(self._capacity, heads, key_states.shape[-1])
        self.values = value_states.new_zeros(self._capacity, heads, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new tokens, [1, heads, T, size] each, and returns all of every session, [B, heads, longest, size]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return self._exchange(self.keys, key_states), self._exchange(self.values, value_states)

    def _exchange(self, pool: "torch.Tensor | None", states: torch.Tensor) -> torch.Tensor:
        assert pool is not None
        plan: Plan = _running.plan
        pool.index_copy_(0, plan.slots, states[0].transpose(0, 1))
        found = pool.index_select(0, plan.read.view(-1))
        return found.view(*plan.read.shape, *pool.shape[1:]).transpose(1, 2)

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self._capacity

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0


class Engine:
    """A model over a pool of at most `kv_bytes` for keys and values."""

    def __init__(self, lm: CausalLM, kv_bytes: int) -> None:
        self._lm = lm
        token = token_bytes(lm)
        # One page of the pool is nobody's.
        total = kv_bytes // (token * PAGE)
        if total < 2:
            raise BadInput(f"kv-bytes {kv_bytes} is less than {2 * token * PAGE}, two pages of {PAGE} tokens")
        self.pages = Pages(min(total, 1 + 4096 * math.ceil(lm.context / PAGE)), PAGE)
        self.bytes_per_page = token * PAGE
        layers = [PagedLayer(self.pages.total * PAGE) for _ in DynamicCache(config=lm.model.config).layers]
        lm.model.set_attn_implementation(ATTENTION)
        self._arguments: dict[str, Any] = {cache_argument(lm.model): Cache(layers=list(layers)), "use_cache": True}

    @torch.inference_mode()
    def forward(self, batch: Sequence[Slice]) -> list[np.ndarray]:
        """Feeds every slice; float32 [slice.rows, vocab_size] each: the raw logits after the last of its ids."""
        device, dtype = self._lm.model.device, self._lm.model.dtype
        counts = [part.end - part.start for part in batch]
        ends = np.cumsum(counts)
        positions = np.concatenate([np.arange(part.start, part.end) for part in batch])
        read = np.zeros((len(batch), max(part.end for part in batch)), np.int64)
        for number, part in enumerate(batch):
            read[number, : part.end] = (np.array(part.work.held.pages)[:, None] * PAGE + np.arange(PAGE)).reshape(-1)[
                : part.end
            ]
        row = np.repeat(np.arange(len(batch)), counts)
        column = positions - np.repeat([part.start for part in batch], counts)
        # Rows of padding see the first key: what comes of them is dropped.
        seen = np.zeros((len(batch), max(counts)), np.int64)
        seen[row, column] = positions
        wanted = np.concatenate([np.arange(end - part.rows, end) for part, end in zip(batch, ends, strict=True)])
        hidden = torch.arange(read.shape[1], device=device) > torch.from_numpy(seen).to(device)[:, None, :, None]
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, torch.finfo(dtype).min)
        ids = [token for part in batch for token in part.work.ids[part.start : part.end]]
        _running.plan = Plan(*(torch.from_numpy(array).to(device) for array in (row, column, read[row, positions], read)))
        try:
            out = self._lm.model(
                input_ids=torch.tensor([ids], device=device), position_ids=torch.from_numpy(positions)[None].to(device),
                attention_mask=mask, logits_to_keep=torch.from_numpy(wanted if len(wanted) else ends[:1] - 1).to(device),
                **self._arguments,
            )  # fmt: skip
        finally:
            _running.plan = None
        logits = out.logits[0, :, : self._lm.vocab_size].float().cpu().numpy()
        cuts = np.cumsum([part.rows for part in batch])
        return [np.asarray(logits[cut - part.rows : cut]) for part, cut in zip(batch, cuts, strict=True)]


def token_bytes(lm: CausalLM) -> int:
    """Bytes of keys and values per token."""
    config: Any = lm.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers) * int(heads) * int(size) * lm.model.dtype.itemsize
