"""Configurations by the names of the command line, for tests that change one thing at a time."""

from dataclasses import fields, replace
from typing import Any

from hedge.common.sampling import Warp
from hedge.edge_client.config import GateConfig, LinkConfig, SamplingParams, VerificationConfig
from hedge.edge_client.systems import GenerationConfig

_PARTS = {
    "sampling": SamplingParams,
    "gate": GateConfig,
    "verification": VerificationConfig,
    "link": LinkConfig,
}


def config_of(system: str = "test", **options: Any) -> GenerationConfig:
    """Sampled at temperature 1, and a dead link fails, unless another way is asked for."""
    found = _split(options)
    found["sampling"].setdefault("temperature", 1.0)
    found["link"].setdefault("on_disconnect", "fail")
    return GenerationConfig(system, **{name: kind(**found[name]) for name, kind in _PARTS.items()})


def changed(config: GenerationConfig, **options: Any) -> GenerationConfig:
    """The same with other options."""
    parts = {
        name: replace(getattr(config, name), **found) for name, found in _split(options).items()
    }
    return replace(config, **parts)


def _split(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    if isinstance(warp := options.pop("warp", None), Warp):
        options |= {
            name: getattr(warp, name) for name in ("temperature", "top_k", "top_p", "min_p")
        }
    if "verification" in options:
        options["kind"] = options.pop("verification")
    found: dict[str, dict[str, Any]] = {}
    for name, kind in _PARTS.items():
        own = {field.name for field in fields(kind)}
        found[name] = {option: options.pop(option) for option in list(options) if option in own}
    assert not options, options
    return found
