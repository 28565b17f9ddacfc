"""How a model is loaded, as it is asked for. Imports no runtime and no numpy: the command line
needs it for its help.
"""

import os
from dataclasses import dataclass

from hedge.common.errors import BadInput

DTYPES = ("float32", "bfloat16", "float16")
MIN_CONTEXT = 16
MAX_CONTEXT = 1 << 24
MAX_GPU_LAYERS = 10_000


def is_gguf(where: str) -> bool:
    """Whether a model's name is that of a file for llama.cpp."""
    return where.lower().endswith(".gguf")


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How a model is loaded. `dtype` and `device` are torch's, `gpu_layers` llama.cpp's; None is
    the runtime's own choice.

    `context` None: the model's, or what fits into the memory that is free.
    """

    dtype: str | None = None
    device: str | None = None
    threads: int | None = None
    context: int | None = None
    gpu_layers: int = 0

    def __post_init__(self) -> None:
        if self.threads is not None:
            check_threads(self.threads)
        if self.context is not None and not MIN_CONTEXT <= self.context <= MAX_CONTEXT:
            raise BadInput(f"context {self.context} is not in {MIN_CONTEXT}..{MAX_CONTEXT}")
        if not 0 <= self.gpu_layers <= MAX_GPU_LAYERS:
            raise BadInput(f"gpu-layers {self.gpu_layers} is not in 0..{MAX_GPU_LAYERS}")


def check_threads(count: int) -> None:
    cores = os.cpu_count() or 1
    if not 1 <= count <= cores:
        raise BadInput(f"{count} threads, not 1..{cores}, the cores of this machine")
