"""One forward pass over slices of many sessions: ragged lengths, each row's keys and values in pages of its own."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from cloud_server.pages import Pages
from cloud_server.scheduler import Slice
from common.errors import BadInput
from common.model import CausalLM, cache_argument

PAGE = 16


class PagedLayer(CacheLayerMixin):
    """Keys and values of one layer, [slots, heads, size], as many slots as the pages hold tokens.

    `slots` and `read`, int64, are set for each pass: where the new tokens go [rows * new], and where the tokens of every row
    lie [rows * longest].
    """

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._capacity = capacity
        self.slots = self.read = torch.empty(0, dtype=torch.int64)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        heads = key_states.shape[1]
        self.keys = key_states.new_zeros(self._capacity, heads, key_states.shape[-1])
        self.values = value_states.new_zeros(self._capacity, heads, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new tokens, [rows, heads, new, size] each, and returns all of every row, [rows, heads, longest, size]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return self._exchange(self.keys, key_states), self._exchange(self.values, value_states)

    def _exchange(self, pool: "torch.Tensor | None", states: torch.Tensor) -> torch.Tensor:
        assert pool is not None
        rows, heads, _, size = states.shape
        pool.index_copy_(0, self.slots, states.transpose(1, 2).reshape(-1, heads, size))
        return pool.index_select(0, self.read).view(rows, -1, heads, size).transpose(1, 2)

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
        # One page of the pool belongs to the padding.
        total = kv_bytes // (token * PAGE)
        if total < 2:
            raise BadInput(f"kv-bytes {kv_bytes} is less than {2 * token * PAGE}, two pages of {PAGE} tokens")
        self.pages = Pages(min(total, 1 + 4096 * math.ceil(lm.context / PAGE)), PAGE)
        self.bytes_per_page = token * PAGE
        self._layers = [PagedLayer(self.pages.total * PAGE) for _ in DynamicCache(config=lm.model.config).layers]
        self._arguments: dict[str, Any] = {cache_argument(lm.model): Cache(layers=list(self._layers)), "use_cache": True}

    @torch.inference_mode()
    def forward(self, batch: Sequence[Slice]) -> list[np.ndarray]:
        """Feeds every slice; float32 [slice.rows, vocab_size] each: the raw logits after the last of its ids."""
        device = self._lm.model.device
        new, longest = max(part.end - part.start for part in batch), max(part.end for part in batch)
        ids = np.zeros((len(batch), new), np.int64)
        # New tokens stand at the right, so that the last logits are everybody's last.
        positions = np.zeros((len(batch), new), np.int64)
        slots = np.zeros((len(batch), new), np.int64)
        read = np.zeros((len(batch), longest), np.int64)
        for row, part in enumerate(batch):
            count = part.end - part.start
            mine = (np.array(part.work.held.pages)[:, None] * PAGE + np.arange(PAGE)).reshape(-1)[: part.end]
            read[row, : part.end] = mine
            ids[row, new - count :] = part.work.ids[part.start : part.end]
            positions[row, new - count :] = np.arange(part.start, part.end)
            slots[row, new - count :] = mine[part.start :]
        at = torch.from_numpy(positions).to(device)
        hidden = torch.arange(longest, device=device)[None, None, :] > at[:, :, None]
        mask = torch.zeros(hidden.shape, dtype=self._lm.model.dtype, device=device)
        mask.masked_fill_(hidden, torch.finfo(self._lm.model.dtype).min)
        written, seen = torch.from_numpy(slots.reshape(-1)).to(device), torch.from_numpy(read.reshape(-1)).to(device)
        for layer in self._layers:
            layer.slots, layer.read = written, seen
        out = self._lm.model(
            input_ids=torch.from_numpy(ids).to(device), position_ids=at, attention_mask=mask[:, None],
            logits_to_keep=max(1, *(part.rows for part in batch)), **self._arguments,
        )  # fmt: skip
        logits = out.logits[:, :, : self._lm.vocab_size].float().cpu().numpy()
        return [np.asarray(row[len(row) - part.rows :]) for row, part in zip(logits, batch, strict=True)]


def token_bytes(lm: CausalLM) -> int:
    """Bytes of keys and values per token."""
    config: Any = lm.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers) * int(heads) * int(size) * lm.model.dtype.itemsize
