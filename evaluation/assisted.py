"""transformers' own assisted generation with both models on one machine: the baseline that a cloud
could run by itself.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from hedge.common.errors import BadInput
from hedge.common.model import LanguageModel
from hedge.common.sampling import Warp
from hedge.common.torch_model import TorchModel


@dataclass(slots=True)
class Passes:
    """Positions of every forward pass of a model."""

    positions: list[int] = field(default_factory=list)


@contextmanager
def count_passes(lm: TorchModel) -> Iterator[Passes]:
    passes = Passes()

    def note(_: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        ids: Any = kwargs.get("input_ids", args[0] if args else None)
        passes.positions.append(int(ids.shape[1]))

    hook = lm.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


@dataclass(frozen=True, slots=True)
class Assisted:
    """An answer, the seconds it took, and the passes of both models."""

    token_ids: list[int]
    seconds: float
    slm: list[int]
    llm: list[int]


def generate_assisted(
    slm: LanguageModel, llm: LanguageModel, prompt: Sequence[int], warp: Warp, seed: int, most: int
) -> Assisted:
    """At temperature 0 greedy, otherwise sampled under torch's generator of `seed`. BadInput for
    other models than torch's.
    """
    if not (isinstance(slm, TorchModel) and isinstance(llm, TorchModel)):
        raise BadInput(
            f"assisted generation runs in transformers: {slm.name} and {llm.name} have to be model "
            "folders"
        )
    torch.manual_seed(seed)
    sampling: dict[str, Any] = {"do_sample": False}
    if warp.temperature:
        sampling = {
            "do_sample": True,
            "temperature": warp.temperature,
            "top_k": warp.top_k,
            "top_p": warp.top_p,
        }
    ids = torch.tensor([list(prompt)])
    model: Any = llm.model
    with count_passes(slm) as small, count_passes(llm) as large, torch.inference_mode():
        started = time.perf_counter()
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            assistant_model=slm.model,
            max_new_tokens=most,
            eos_token_id=list(llm.end_ids),
            pad_token_id=0,
            **sampling,
        )
        seconds = time.perf_counter() - started
    return Assisted(out[0, len(prompt) :].tolist(), seconds, small.positions, large.positions)
