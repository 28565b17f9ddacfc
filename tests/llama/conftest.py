"""The bundled pair as GGUF files, and the real pair where there is one."""

import os
from pathlib import Path

import pytest

from hedge.common.loading import load
from hedge.common.model import LanguageModel, bundled_folder
from hedge.common.model_options import ModelOptions
from tests.integration.conftest import cloud, here, start_cloud, start_cloud_process
from tools.to_gguf import convert

__all__ = ["cloud", "here", "start_cloud", "start_cloud_process"]

pytest.importorskip("llama_cpp", reason="llama.cpp is not installed: make test-llama does it")
ONE = ModelOptions(threads=1)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """slm.gguf and llm.gguf: the weights of the bundled pair, in float32, five rows padded."""
    folder = tmp_path_factory.mktemp("bundled")
    return {
        side: convert(bundled_folder() / side, folder / f"{side}.gguf", padding=5)
        for side in ("slm", "llm")
    }


@pytest.fixture(scope="session")
def slm(files: dict[str, Path]) -> LanguageModel:
    return load(str(files["slm"]), "slm", ONE)


@pytest.fixture(scope="session")
def llm(files: dict[str, Path]) -> LanguageModel:
    return load(str(files["llm"]), "llm", ONE)


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of the real pair: q05.gguf, q15.gguf, and q05 and q15 with safetensors."""
    folder = os.environ.get("HEDGE_REAL_PAIR")
    if not folder:
        pytest.skip("HEDGE_REAL_PAIR names no folder: make test-real says how to get one")
    return Path(folder)
