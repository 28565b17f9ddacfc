"""The engine of torch models: ragged lengths, each row's keys and values in pages of its own.

The new ids of all sessions run through the model as one row, so that its large products see no padding. Only attention is
padded: `ragged_attention` folds the row into rectangles, a row per session, and back.
"""

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

from cloud_server.engine import PAGE, pages_within
from cloud_server.scheduler import Slice
from common.torch_model import TorchModel, cache_argument

ATTENTION = "hedge_ragged"


# Sessions with more new ids than this share a rectangle of their own: prompts beside blocks of a few drafts.
NARROW = 12


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Sessions `first` to `last` and their new ids, `begin` to `end` of the pass's T.

    `row` and `column`, int64: the place of each id; `mask` [sessions, 1, width, longest]: 0 where it looks, else the least
    number there is.
    """

    first: int
    last: int
    begin: int
    end: int
    row: torch.Tensor
    column: torch.Tensor
    mask: torch.Tensor


@dataclass(frozen=True, slots=True)
class Plan:
    """Where things are in a pass over T new ids of B sessions, int64.

    `slots` [T]: where the key and value of each id go; `read` [B, longest]: where those of every session lie.
    """

    slots: torch.Tensor
    read: torch.Tensor
    rectangles: list[Rectangle]


_running = threading.local()


def ragged_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Attention of [1, heads, T, size] over keys and values [B, heads, longest, size]: [1, T, heads, size].

    Outside an engine's pass it is plain scaled dot product attention.
    """
    plan: Plan | None = getattr(_running, "plan", None)
    if plan is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    _, heads, _, size = query.shape
    found = []
    for one in plan.rectangles:
        longest = one.mask.shape[3]
        padded = query.new_zeros(one.last - one.first, heads, one.mask.shape[2], size)
        padded[one.row, :, one.column] = query[0, :, one.begin : one.end].transpose(0, 1)
        keys, values = (states[one.first : one.last, :, :longest] for states in (key, value))
        out, _ = sdpa_attention_forward(module, padded, keys, values, one.mask, **kwargs)
        found.append(out[one.row, one.column])
    return torch.cat(found)[None], None


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


class TorchEngine:
    """A model over a pool of at most `kv_bytes` for keys and values."""

    def __init__(self, lm: TorchModel, kv_bytes: int) -> None:
        self._lm = lm
        self.token_bytes, self.most_sessions = lm.token_bytes, None
        self.pages = pages_within(kv_bytes, lm.token_bytes, lm.context)
        layers = [PagedLayer(self.pages.total * PAGE) for _ in DynamicCache(config=lm.model.config).layers]
        lm.model.set_attn_implementation(ATTENTION)
        self._arguments: dict[str, Any] = {cache_argument(lm.model): Cache(layers=list(layers)), "use_cache": True}

    @torch.inference_mode()
    def forward(self, batch: Sequence[Slice]) -> list[np.ndarray]:
        order = sorted(range(len(batch)), key=lambda number: batch[number].end - batch[number].start > NARROW)
        logits = self._forward([batch[number] for number in order])
        return [logits[at] for at in np.argsort(order)]

    def _forward(self, batch: Sequence[Slice]) -> list[np.ndarray]:
        """`forward` of slices that are sorted into narrow and wide ones."""
        device = self._lm.model.device
        counts = np.array([part.end - part.start for part in batch])
        ends = np.cumsum(counts)
        positions = np.concatenate([np.arange(part.start, part.end) for part in batch])
        read = np.zeros((len(batch), max(part.end for part in batch)), np.int64)
        for number, part in enumerate(batch):
            held = np.array(part.work.held.pages)
            read[number, : part.end] = (held[:, None] * PAGE + np.arange(PAGE)).reshape(-1)[: part.end]
        wanted = np.concatenate([np.arange(end - part.rows, end) for part, end in zip(batch, ends, strict=True)])
        slots = read[np.repeat(np.arange(len(batch)), counts), positions]
        narrow = int((counts <= NARROW).sum())
        rectangles = [
            self._rectangle(batch, counts, ends, first, last)
            for first, last in ((0, narrow), (narrow, len(batch)))
            if last > first
        ]
        ids = [token for part in batch for token in part.work.ids[part.start : part.end]]
        _running.plan = Plan(torch.from_numpy(slots).to(device), torch.from_numpy(read).to(device), rectangles)
        try:
            out = self._lm.model(
                input_ids=torch.tensor([ids], device=device), position_ids=torch.from_numpy(positions)[None].to(device),
                # Four dimensions: it is passed on as it is.
                attention_mask=rectangles[0].mask,
                logits_to_keep=torch.from_numpy(wanted if len(wanted) else ends[:1] - 1).to(device), **self._arguments,
            )  # fmt: skip
        finally:
            _running.plan = None
        logits = out.logits[0, :, : self._lm.vocab_size].float().cpu().numpy()
        cuts = np.cumsum([part.rows for part in batch])
        return [np.asarray(logits[cut - part.rows : cut]) for part, cut in zip(batch, cuts, strict=True)]

    def _rectangle(self, batch: Sequence[Slice], counts: np.ndarray, ends: np.ndarray, first: int, last: int) -> Rectangle:
        device, dtype = self._lm.model.device, self._lm.model.dtype
        mine, parts = counts[first:last], batch[first:last]
        row = np.repeat(np.arange(last - first), mine)
        column = np.concatenate([np.arange(count) for count in mine])
        # Padding sees the first key: what comes of it is dropped.
        seen = np.zeros((last - first, int(mine.max())), np.int64)
        seen[row, column] = np.concatenate([np.arange(part.start, part.end) for part in parts])
        longest = max(part.end for part in parts)
        hidden = torch.arange(longest, device=device) > torch.from_numpy(seen).to(device)[:, None, :, None]
        mask = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, torch.finfo(dtype).min)
        begin = int(ends[first] - counts[first])
        at_row, at_column = torch.from_numpy(row).to(device), torch.from_numpy(column).to(device)
        return Rectangle(first, last, begin, int(ends[last - 1]), at_row, at_column, mask)
