"""How many rows a call of a torch model may have for each of them to come out the same, bit for bit, in any company.

Matrix products change their kernel, and with it the order in which a row is summed, with the number of rows. But some numbers
share an order. Which do depends on the machine, the precision and the threads: it is tried.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

# The sizes tried, and the one that the others have to agree with: where the weights take longer to read than to multiply by
# 32 rows, a call of 32 costs little more than one of 1, and a long pass is few calls.
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 48, 64)
ANCHOR = 32
# Rows compared at least.
ROWS = 8
# torch gives a thread so many elements at least; what a thread has over a multiple of two vectors is computed by other code.
GRAIN, VECTORS = 32768, 64


@torch.inference_mode()
def row_sizes(model: PreTrainedModel) -> tuple[int, ...]:
    """The sizes that agree, ascending; none when rows cannot be kept apart by their number."""
    layers = _layers(model)
    on_cpu = model.device.type == "cpu"
    widths = {size for layer in layers for size in _shape(layer)} | {_head_size(model)}
    usable = [size for size in SIZES if not on_cpu or all(_whole(size * width) for width in widths)]
    anchor = max((size for size in usable if size <= ANCHOR), default=None)
    if anchor is None:
        return ()
    generator = torch.Generator().manual_seed(0)
    for layer in layers:
        rows = torch.randn(2 * ANCHOR, _shape(layer)[0], generator=generator).to(model.device, model.dtype)
        expected = _in_calls(layer, rows, anchor, len(rows))
        usable = [size for size in usable if _agrees(_in_calls(layer, rows, size, ROWS), expected)]
    return tuple(usable)


def _layers(model: PreTrainedModel) -> Sequence[torch.nn.Module]:
    """One for each shape. The head has many columns and the kernels of the others."""
    head = model.get_output_embeddings()
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear | Conv1D) and layer is not head]
    return list({(_shape(layer), layer.bias is None): layer for layer in layers}.values())


def _shape(layer: torch.nn.Module) -> tuple[int, int]:
    """Columns in and out."""
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    rows, columns = weight.shape
    return (rows, columns) if isinstance(layer, Conv1D) else (columns, rows)


def _head_size(model: PreTrainedModel) -> int:
    config = model.config.get_text_config()
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _whole(elements: int) -> bool:
    """Whether element by element operations use one kind of code for all of them."""
    # torch takes no more threads than have that many elements each.
    threads = min(torch.get_num_threads(), max(1, -(-elements // GRAIN)))
    return -(-elements // threads) % VECTORS == 0


def _in_calls(layer: torch.nn.Module, rows: torch.Tensor, size: int, least: int) -> torch.Tensor:
    count = max(size, least // size * size)
    return torch.cat([layer(rows[None, start : start + size])[0] for start in range(0, count, size)])


def _agrees(rows: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.equal(rows, expected[: len(rows)])
