"""Configurations by the names of the command line, for tests that change one thing at a time."""

from dataclasses import asdict, fields, replace
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
_WARP = [field.name for field in fields(Warp)]


def config_of(system: str = "test", **options: Any) -> GenerationConfig:
    """Sampled at temperature 1, and a dead link fails, unless another way is asked for."""
    found = _split(options)
    found["sampling"]["warp"] = Warp(**found["sampling"].get("warp", {}))
    found["link"].setdefault("on_disconnect", "fail")
    return GenerationConfig(system, **{name: kind(**found[name]) for name, kind in _PARTS.items()})


def changed(config: GenerationConfig, **options: Any) -> GenerationConfig:
    """The same with other options."""
    found = _split(options)
    if "warp" in found["sampling"]:
        found["sampling"]["warp"] = replace(config.sampling.warp, **found["sampling"]["warp"])
    parts = {name: replace(getattr(config, name), **own) for name, own in found.items()}
    return replace(config, **parts)


def _split(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    if "warp" in options:
        options |= asdict(options.pop("warp"))
    warp = {name: options.pop(name) for name in _WARP if name in options}
    if warp:
        options["warp"] = warp
    if "verification" in options:
        options["kind"] = options.pop("verification")
    found: dict[str, dict[str, Any]] = {}
    for name, kind in _PARTS.items():
        own = {field.name for field in fields(kind)}
        found[name] = {option: options.pop(option) for option in list(options) if option in own}
    assert not options, options
    return found
