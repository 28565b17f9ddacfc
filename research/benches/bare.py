"""The forward pass of a model itself, without a server around it."""

import time
from statistics import median
from typing import Any

import torch
from transformers import DynamicCache

from hedge.common.torch_model import TorchModel, cache_argument

# Ids in the cache before the passes that are timed.
PREFIX = 50


@torch.inference_mode()
def time_bare_forward(lm: TorchModel, rows: int, new: int) -> float:
    """Positions/s of the model itself over `rows` equally long prefixes, `new` ids at a time."""
    cache = DynamicCache(config=lm.model.config)
    model: Any = lm.model
    arguments = {cache_argument(lm.model): cache, "use_cache": True, "logits_to_keep": new}
    model(input_ids=torch.ones(rows, PREFIX, dtype=torch.int64), **arguments)
    ids = torch.ones(rows, new, dtype=torch.int64)
    times = []
    for _ in range(60):
        started = time.perf_counter()
        model(input_ids=ids, **arguments)
        times.append(time.perf_counter() - started)
        cache.crop(-new)
    return rows * new / median(times)
