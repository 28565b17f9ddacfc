"""The settings of a chat that its /commands show and change."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hedge.common.errors import BadInput
from hedge.edge_client.overrides import Overrides
from hedge.edge_client.systems import GenerationConfig

# By the names of their commands: how a number for them is read.
NUMBERS: dict[str, Callable[[str], Any]] = {
    "threshold": float,
    "temperature": float,
    "seed": int,
    "max-tokens": int,
}


def show_setting(config: GenerationConfig, name: str) -> str:
    sampling = config.sampling
    values = {
        "temperature": sampling.warp.temperature,
        "seed": sampling.seed,
        "max-tokens": sampling.max_new_tokens,
    }
    return f"{name} {values[name]:g}" if name in values else describe(config)


def read_setting(overrides: Overrides, name: str, word: str) -> Overrides:
    """The overrides with one setting changed. BadInput for a word that is no value of it."""
    number = NUMBERS[name]
    free = name == "threshold"
    try:
        value: Any = None if free and word == "calibrated" else number(word)
    except ValueError:
        kind = "a whole number" if number is int else "a number"
        more = ", and not `calibrated`" if free else ""
        raise BadInput(f"{name} {word!r} is not {kind}{more}") from None
    sampling = overrides.sampling
    match name:
        case "threshold":
            return replace(overrides, threshold=value)
        case "temperature":
            sampling = replace(sampling, warp=replace(sampling.warp, temperature=value))
        case "seed":
            sampling = replace(sampling, seed=value)
        case "max-tokens":
            sampling = replace(sampling, max_new_tokens=value)
    return replace(overrides, sampling=sampling)


def describe(config: GenerationConfig) -> str:
    gate = config.gate
    limit = f" above {gate.threshold:.4f} of {gate.measure}" if gate.gated else ""
    return f"policy {gate.policy}{limit}, guarantee {config.guarantee}"
