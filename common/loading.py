"""Which runtime loads a model: torch or llama.cpp, each imported only when it is used."""

from pathlib import Path

from hedge.common.errors import BadInput, HedgeError
from hedge.common.hub import PREFIX, fetch, hub_name
from hedge.common.model import BUNDLED, LanguageModel
from hedge.common.model_options import ModelOptions, is_gguf


def load(where: str, side: str, options: ModelOptions | None = None) -> LanguageModel:
    """The model at a local folder, GGUF file, name on the hub, or `bundled` (its `slm` or `llm`, by
    `side`).

    BadInput when nothing usable is there, Incompatible for a cache that cannot be rolled back.
    """
    options = options or ModelOptions()
    name = None
    if where != BUNDLED and (on_hub := hub_name(where)):
        try:
            where = str(fetch(on_hub))
            name = on_hub.repo
        except HedgeError as error:
            if where.startswith(PREFIX):
                raise
            raise type(error)(f"no {side} at {where}, and on the hub: {error}") from None
    if is_gguf(where):
        from hedge.common.llama_model import load_gguf

        return load_gguf(Path(where), side, options)
    try:
        from hedge.common.torch_model import load_folder
    except ModuleNotFoundError as error:
        raise BadInput(
            f"{name or where} runs in torch, and {error.name} is not installed: pip install "
            "'hedge-hlm[torch]', or name a "
            ".gguf file"
        ) from None
    return load_folder(where, side, options, name)
