"""What names a model that vLLM runs; vLLM itself is tested in tests/vllm."""

from typing import Any

import pytest

from hedge.cloud_server.engines.vllm_engine import load_vllm
from hedge.common.model import BUNDLED
from hedge.common.model_options import ModelOptions


@pytest.mark.parametrize(
    ("options", "dtype", "same"),
    [
        ({}, None, True),
        ({"max_num_seqs": 8, "tensor_parallel_size": 4}, None, True),
        ({"quantization": "fp8"}, None, False),
        ({"hf_overrides": {"rope_theta": 1.0}}, None, False),
        ({"kv_cache_dtype": "fp8"}, None, False),
        ({}, "bfloat16", False),
    ],
)
def test_options_that_change_tokens_make_another_model(
    options: dict[str, Any], dtype: str | None, *, same: bool
) -> None:
    plain = load_vllm(BUNDLED, ModelOptions(), {})
    assert (
        load_vllm(BUNDLED, ModelOptions(dtype=dtype), options).fingerprint == plain.fingerprint
    ) is same
    assert (
        load_vllm(BUNDLED, ModelOptions(dtype=dtype), options).tokenizer_fingerprint
        == plain.tokenizer_fingerprint
    )
