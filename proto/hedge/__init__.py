"""The wire contract of Hedge, and its version: `hedge.__version__`."""

from importlib.metadata import version


def __getattr__(name: str) -> str:
    if name == "__version__":
        return version("hedge-hlm")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
