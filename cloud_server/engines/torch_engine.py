"""The engine of torch models: ragged lengths, each row's keys and values in blocks of its own.

The new ids of all sessions run through the model as one row, so that its large products see no
padding. Only attention is padded: `ragged_attention` folds the row into rectangles, a row per
session, and back.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from hedge.cloud_server.engines.block_manager import BLOCK_SIZE, make_block_manager
from hedge.cloud_server.engines.row_sizes import find_row_sizes
from hedge.cloud_server.engines.scheduler import ScheduledChunk
from hedge.common.errors import Incompatible
from hedge.common.torch_model import TorchModel, cache_argument

ATTENTION = "hedge_ragged"


# Sessions with more new ids than this share a rectangle of their own: prompts beside blocks of a
# few drafts.
NARROW = 12
# Reproducible attention: queries of a block, and what the number of keys is a multiple of, as torch
# cuts them.
WIDTH = 4
KEYS = 512
# Rotary embeddings that are computed anew when a longer text comes.
CHANGING = {"dynamic", "longrope"}
# What attention of some models takes besides queries, keys and values, and torch's has no word for.
UNKNOWN = ("softcap", "s_aux", "position_bias", "head_mask")
# Two places of the block that is nobody's: what is read for padding, and where padding is written.
ZEROS = 0
NOWHERE = 1


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Sessions `first` to `last` of a pass, and their new ids, `begin` to `end` of its T, in blocks
    of `width` queries.

    `row` and `column`, int64: the block and the place of each id; `seen` [blocks, width]: how far
    it looks, of `longest` keys. A block is a session, or there is one session and all blocks are
    its.
    """

    first: int
    last: int
    begin: int
    end: int
    row: torch.Tensor
    column: torch.Tensor
    seen: torch.Tensor
    longest: int
    masks: dict[int, torch.Tensor] = field(default_factory=dict)

    def mask(self, groups: int, dtype: torch.dtype) -> torch.Tensor:
        """[blocks, 1, groups * width, longest]: 0 where a query looks, else the least number there
        is.
        """
        if groups not in self.masks:
            hidden = (
                torch.arange(self.longest, device=self.seen.device)
                > self.seen[:, None, None, :, None]
            )
            mask = torch.zeros(hidden.shape, dtype=dtype, device=self.seen.device).masked_fill_(
                hidden, torch.finfo(dtype).min
            )
            self.masks[groups] = mask.expand(-1, -1, groups, -1, -1).flatten(2, 3)
        return self.masks[groups]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where things are in a pass over T new ids of B sessions, int64.

    `slots` [T]: where the key and value of each id go; `read` [B, longest]: where those of every
    session lie.
    """

    slots: torch.Tensor
    read: torch.Tensor
    rectangles: list[Rectangle]


_running = threading.local()


def ragged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of [1, heads, T, size] over keys and values [B, key heads, longest, size]: [1, T,
    heads, size].

    Outside an engine's pass it is plain scaled dot product attention.
    """
    plan: Plan | None = getattr(_running, "plan", None)
    if plan is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if unknown := [name for name in UNKNOWN if kwargs.get(name) is not None]:
        raise Incompatible(
            f"{type(module).__name__} cannot verify: its attention takes {', '.join(unknown)}"
        )
    _, heads, count, size = query.shape
    # The queries that share a key head are rows of one product.
    key_heads = key.shape[1]
    groups = heads // key.shape[1]
    queries = query[0].transpose(0, 1).reshape(count, key_heads, groups, size)
    result = query.new_zeros(count, key_heads, groups, value.shape[-1])
    for one in plan.rectangles:
        blocks, width = one.seen.shape
        padded = query.new_zeros(blocks, key_heads, groups, width, size)
        padded[one.row, :, :, one.column] = queries[one.begin : one.end]
        keys, values = (
            states[one.first : one.last, :, : one.longest].expand(blocks, -1, -1, -1)
            for states in (key, value)
        )
        out = scaled_dot_product_attention(
            padded.flatten(2, 3),
            keys,
            values,
            one.mask(groups, query.dtype),
            scale=kwargs.get("scaling"),
        )
        result[one.begin : one.end] = out.unflatten(2, (groups, width))[one.row, :, :, one.column]
    return result.flatten(1, 2)[None], None


AttentionInterface.register(ATTENTION, ragged_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class PagedLayer(CacheLayerMixin):
    """Keys and values of one layer, [slots, heads, size]: a slot per token of the pool."""

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._capacity = capacity

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        # Not zeros: that would touch memory which nobody may ever need.
        self.keys, self.values = (
            states.new_empty(self._capacity, states.shape[1], states.shape[-1])
            for states in (key_states, value_states)
        )
        self.keys[ZEROS], self.values[ZEROS] = 0, 0
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new tokens, [1, heads, T, size] each, and returns all of every session, [B,
        heads, longest, size].
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return self._exchange(self.keys, key_states), self._exchange(self.values, value_states)

    def _exchange(self, pool: "torch.Tensor | None", states: torch.Tensor) -> torch.Tensor:
        assert pool is not None
        plan: Plan = _running.plan
        pool.index_copy_(0, plan.slots, states[0].transpose(0, 1))
        gathered = pool.index_select(0, plan.read.view(-1))
        return gathered.view(*plan.read.shape, *pool.shape[1:]).transpose(1, 2)

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self._capacity

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0


def check_rotary(lm: TorchModel) -> None:
    """Incompatible where a position is turned otherwise as soon as a longer text is in the same
    pass.
    """
    kinds = [getattr(module, "rope_type", ()) for module in lm.model.modules()]
    names = {
        name
        for kind in kinds
        for name in (kind.values() if isinstance(kind, dict) else [kind] if kind else ())
    }
    if changing := sorted(names & CHANGING):
        raise Incompatible(
            f"{lm.name} cannot verify: its rotary embeddings ({', '.join(changing)}) change "
            "with the length of a text, so that "
            "sessions in one pass would change each other's logits"
        )


class TorchEngine:
    """A model over a pool of at most `kv_bytes` for keys and values.

    `reproducible`: the bits of a row do not depend on what else is in its pass. Every call of the
    model then has one of the `sizes` that agree, filled up with rows for nobody, and attention is
    computed in blocks of one shape.
    """

    def __init__(
        self,
        lm: TorchModel,
        kv_bytes: int,
        *,
        reproducible: bool = False,
        prefix_sharing: bool = True,
    ) -> None:
        check_rotary(lm)
        self._lm = lm
        self.prefix_sharing = prefix_sharing
        self.token_bytes = lm.token_bytes
        self.most_sessions = None
        self.block_manager = make_block_manager(kv_bytes, lm.token_bytes, lm.context)
        layers = [
            PagedLayer(self.block_manager.total * BLOCK_SIZE)
            for _ in DynamicCache(config=lm.model.config).layers
        ]
        lm.model.set_attn_implementation(ATTENTION)
        self._arguments: dict[str, Any] = {
            cache_argument(lm.model): Cache(layers=list(layers)),
            "use_cache": True,
        }
        self.sizes = find_row_sizes(lm.model) if reproducible else ()

    @torch.inference_mode()
    def forward(self, batch: Sequence[ScheduledChunk]) -> list[np.ndarray]:
        logits: list[list[np.ndarray]] = [[] for _ in batch]
        for call in self._calls(batch):
            for number, rows in zip(call, self._call(list(call.values())), strict=True):
                logits[number].append(rows)
        return [rows[0] if len(rows) == 1 else np.concatenate(rows) for rows in logits]

    def _calls(self, batch: Sequence[ScheduledChunk]) -> list[dict[int, ScheduledChunk]]:
        """What each call of the model does of the chunks of a pass, by their number: few new ids
        first.
        """
        most = self.sizes[-1] if self.sizes else sum(chunk.end - chunk.start for chunk in batch)
        calls: list[dict[int, ScheduledChunk]] = [{}]
        room = most
        for number, chunk in enumerate(batch):
            start = chunk.start
            while start < chunk.end:
                if not room:
                    calls.append({})
                    room = most
                end = min(chunk.end, start + room)
                calls[-1][number] = ScheduledChunk(chunk.work, start, end)
                room -= end - start
                start = end
        return [
            dict(sorted(call.items(), key=lambda item: item[1].end - item[1].start > self._narrow))
            for call in calls
        ]

    @property
    def _narrow(self) -> int:
        return WIDTH if self.sizes else NARROW

    def _filled(self, count: int) -> int:
        """The rows of a call for so many."""
        return next((size for size in self.sizes if size >= count), count)

    def _call(self, batch: Sequence[ScheduledChunk]) -> list[np.ndarray]:
        """Feeds chunks that are sorted into narrow and wide ones."""
        device = self._lm.model.device
        counts = np.array([chunk.end - chunk.start for chunk in batch])
        ends = np.cumsum(counts)
        count = int(ends[-1])
        filled = self._filled(int(ends[-1]))
        places = np.concatenate([np.arange(chunk.start, chunk.end) for chunk in batch])
        read = np.full((len(batch), self._keys(max(chunk.end for chunk in batch))), ZEROS)
        for number, chunk in enumerate(batch):
            table = np.array(chunk.work.table.blocks)
            read[number, : chunk.end] = (
                table[:, None] * BLOCK_SIZE + np.arange(BLOCK_SIZE)
            ).reshape(-1)[: chunk.end]
        slots = np.full(filled, NOWHERE)
        slots[:count] = read[np.repeat(np.arange(len(batch)), counts), places]
        ids = np.zeros(filled, np.int64)
        positions = np.zeros(filled, np.int64)
        ids[:count] = [
            token for chunk in batch for token in chunk.work.ids[chunk.start : chunk.end]
        ]
        positions[:count] = places
        wanted = np.concatenate(
            [np.arange(end - chunk.rows, end) for chunk, end in zip(batch, ends, strict=True)]
        )
        kept = np.zeros(max(1, self._filled(len(wanted)) if len(wanted) else 0), np.int64)
        kept[: len(wanted)] = wanted
        rectangles = [self._rectangle(batch, counts, ends, *part) for part in self._parts(counts)]
        _running.plan = Plan(
            torch.from_numpy(slots).to(device), torch.from_numpy(read).to(device), rectangles
        )
        try:
            out = self._lm.model(
                input_ids=torch.from_numpy(ids)[None].to(device),
                position_ids=torch.from_numpy(positions)[None].to(device),
                # Four dimensions: no mask is made, and `ragged_attention` has its own.
                attention_mask=torch.zeros(1, 1, 1, 1, dtype=self._lm.model.dtype, device=device),
                logits_to_keep=torch.from_numpy(kept).to(device),
                **self._arguments,
            )
        finally:
            _running.plan = None
        logits = out.logits[0, : len(wanted), : self._lm.vocab_size].float().cpu().numpy()
        cuts = np.cumsum([chunk.rows for chunk in batch])
        return [
            np.asarray(logits[cut - chunk.rows : cut])
            for chunk, cut in zip(batch, cuts, strict=True)
        ]

    def _keys(self, longest: int) -> int:
        return -(-longest // KEYS) * KEYS if self.sizes else longest

    def _parts(self, counts: np.ndarray) -> list[tuple[int, int]]:
        """The sessions of each rectangle: the narrow ones, and the wide ones, which have one each
        where blocks are narrow.
        """
        narrow = int((counts <= self._narrow).sum())
        every = len(counts)
        wide = (
            [(number, number + 1) for number in range(narrow, every)]
            if self.sizes
            else [(narrow, every)]
        )
        return [(first, last) for first, last in ((0, narrow), *wide) if last > first]

    def _rectangle(
        self,
        batch: Sequence[ScheduledChunk],
        counts: np.ndarray,
        ends: np.ndarray,
        first: int,
        last: int,
    ) -> Rectangle:
        device = self._lm.model.device
        mine = counts[first:last]
        parts = batch[first:last]
        width = WIDTH if self.sizes else int(mine.max())
        column = np.concatenate([np.arange(count) for count in mine])
        row = np.repeat(np.arange(last - first), mine) + column // width
        column = column % width
        # Padding sees the first key: what comes of it is dropped.
        seen = np.zeros((int(row[-1]) + 1, width), np.int64)
        seen[row, column] = np.concatenate([np.arange(chunk.start, chunk.end) for chunk in parts])
        begin = int(ends[first] - counts[first])
        at_row, at_column, seen_by = (
            torch.from_numpy(array).to(device) for array in (row, column, seen)
        )
        longest = self._keys(max(chunk.end for chunk in parts))
        return Rectangle(
            first, last, begin, int(ends[last - 1]), at_row, at_column, seen_by, longest
        )
