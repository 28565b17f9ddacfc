"""The cloud on vLLM, as its own processes."""

import pytest

from tests.integration.conftest import (
    ENVIRONMENT,
    CloudProcess,
    StartCloudProcess,
    here,
    start_cloud_process,
)

pytest.importorskip("vllm", reason="vLLM is missing: make test-vllm")
__all__ = ["here", "start_cloud_process"]
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
def vllm(start_cloud_process: StartCloudProcess) -> CloudProcess:
    """The bundled LLM on vLLM."""
    return start_cloud_process(*CPU, "--http", "127.0.0.1:0")
