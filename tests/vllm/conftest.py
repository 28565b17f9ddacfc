"""The cloud on vLLM, as its own processes."""

import pytest

from tests.integration.conftest import ENVIRONMENT, Cloud, StartCloud, here, start_cloud

pytest.importorskip("vllm", reason="vLLM is missing: make test-vllm")
__all__ = ["here", "start_cloud"]
# Compiled passes take minutes to make.
CPU = (
    "--engine",
    "vllm",
    "--engine-option",
    "enforce_eager=true",
    "--dtype",
    "float32",
    "--kv-bytes",
    "500000000",
)
ENVIRONMENT.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


@pytest.fixture(scope="session")
def vllm(start_cloud: StartCloud) -> Cloud:
    """The bundled LLM on vLLM."""
    return start_cloud(*CPU, "--http", "127.0.0.1:0")
