"""How many rows a call of a torch model may have for each of them to come out the same, bit for
bit, in any company.

Matrix products change their kernel, and with it the order in which a row is summed, with the number
of rows. But some numbers share an order. Which do depends on the machine, the precision and the
threads: it is tried.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

# The sizes tried, and the one that the others have to agree with: where the weights take longer to
# read than to multiply by 32 rows, a call of 32 costs little more than one of 1, and a long pass is
# few calls.
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 48, 64)
ANCHOR = 32
# Rows compared at least: of few, rounded to 16 bits, too many sums come out the same.
ROWS = 16
# torch gives a thread so many elements at least; what a thread has over a multiple of two vectors
# is computed by other code.
GRAIN = 32768
VECTORS = 64


@torch.inference_mode()
def find_row_sizes(model: PreTrainedModel) -> tuple[int, ...]:
    """The sizes that agree, ascending; none when rows cannot be kept apart by their number."""
    layers = _layers(model)
    on_cpu = model.device.type == "cpu"
    widths = {size for layer in layers for size in _shape(layer)} | {_head_size(model)}
    usable = [size for size in SIZES if not on_cpu or all(_whole(size * width) for width in widths)]
    generator = torch.Generator().manual_seed(0)
    found: dict[int, list[torch.Tensor]] = {size: [] for size in usable}
    for layer in layers:
        rows = torch.randn(SIZES[-1], _shape(layer)[0], generator=generator).to(
            model.device, model.dtype
        )
        for size in list(found):
            calls = rows[: max(size, ROWS // size * size)].unflatten(0, (-1, size))
            out = _each(layer, calls)
            turned = _each(layer, calls.flip(1)).flip(1)
            # The last rows of a call may be summed by other code than the first ones.
            if torch.equal(out, turned):
                found[size].append(out.flatten(0, 1))
            else:
                del found[size]
    anchor = max((size for size in found if size <= ANCHOR), default=None)
    return (
        ()
        if anchor is None
        else tuple(size for size in found if all(map(_agree, found[size], found[anchor])))
    )


def _layers(model: PreTrainedModel) -> Sequence[torch.nn.Module]:
    """One for each kind and shape. The head has many columns, and the kernels of the others of its
    kind.
    """
    head = model.get_output_embeddings()
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, torch.nn.Linear | Conv1D) and layer is not head
    ]
    if isinstance(head, torch.nn.Linear | Conv1D) and type(head) not in map(type, layers):
        layers.append(head)
    return list(
        {(type(layer), _shape(layer), layer.bias is None): layer for layer in layers}.values()
    )


def _shape(layer: torch.nn.Module) -> tuple[int, int]:
    """Columns in and out."""
    weight: torch.Tensor = layer.weight  # type: ignore[assignment]
    rows, columns = weight.shape
    return (rows, columns) if isinstance(layer, Conv1D) else (columns, rows)


def _head_size(model: PreTrainedModel) -> int:
    config = model.config.get_text_config()
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def _whole(elements: int) -> bool:
    """Whether element by element operations use one kind of code for all of them."""
    # torch takes no more threads than have that many elements each.
    threads = min(torch.get_num_threads(), max(1, -(-elements // GRAIN)))
    return -(-elements // threads) % VECTORS == 0


def _each(layer: torch.nn.Module, calls: torch.Tensor) -> torch.Tensor:
    """[calls, size, columns], a call at a time."""
    return torch.cat([layer(call[None].contiguous()) for call in calls])


def _agree(rows: torch.Tensor, others: torch.Tensor) -> bool:
    count = min(len(rows), len(others))
    return torch.equal(rows[:count], others[:count])
