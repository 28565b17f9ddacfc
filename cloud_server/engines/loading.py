"""Which engine runs which model."""

from hedge.cloud_server.engines.base import Engine
from hedge.common.model import LanguageModel


def build_engine(
    lm: LanguageModel,
    kv_bytes: int,
    positions: int = 256,
    reproducible: bool | None = None,
    *,
    prefix_sharing: bool = True,
) -> Engine:
    """The engine of the model's runtime. A pass has at most `positions` ids.

    `reproducible`: whether a row's bits are independent of the rest of its pass; None: where that
    is cheap, in torch's bfloat16 and float16. `prefix_sharing`: whether sessions share blocks where
    the runtime can. BadInput when `kv_bytes` hold no block, or for what the runtime cannot do.
    """
    from hedge.common.llama_model import LlamaModel

    if isinstance(lm, LlamaModel):
        from hedge.cloud_server.engines.llama_engine import LlamaEngine

        return LlamaEngine(lm, kv_bytes, positions, reproducible=bool(reproducible))
    from hedge.cloud_server.engines.torch_engine import TorchEngine
    from hedge.common.torch_model import TorchModel

    assert isinstance(lm, TorchModel)
    wanted = lm.model.dtype.itemsize < 4 if reproducible is None else reproducible
    return TorchEngine(lm, kv_bytes, reproducible=wanted, prefix_sharing=prefix_sharing)
