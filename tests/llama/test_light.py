"""A light device: an environment of its own, made by the documented command, without torch and
transformers.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import ENVIRONMENT, StartCloud

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_a_device_without_torch_answers_from_a_gguf(
    start_cloud: StartCloud, files: dict[str, Path], tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "light")], check=True)
    python = tmp_path / "light" / "bin" / "python"
    # As a user would, but for the wheel of llama.cpp, which PIP_FIND_LINKS may name, and the pinned
    # versions.
    install = [
        str(python),
        "-m",
        "pip",
        "install",
        "-q",
        "-c",
        str(ROOT / "constraints.txt"),
        f"{ROOT}[llama]",
    ]
    subprocess.run(install, check=True, env=os.environ)
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format", "json"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert not {"torch", "transformers", "tokenizers", "safetensors"} & {
        one["name"] for one in json.loads(listed.stdout)
    }
    cloud = start_cloud("--threads", "1")
    hedge = str(python.with_name("hedge"))
    asked = ["--insecure", "--cloud", cloud.address, "--slm", str(files["slm"]), "--threads", "1"]
    done = subprocess.run(
        [
            hedge,
            "generate",
            *asked,
            "--temperature",
            "0",
            "--seed",
            "0",
            "--json",
            "--prompt",
            "What is 47 + 38?",
        ],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"].endswith("Answer: 85")
    without = subprocess.run(
        [hedge, "generate", "--system", "slm", "--prompt", "a"],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert without.returncode == 2
    assert "pip install 'hedge-hlm[torch]'" in without.stderr
    assert "Traceback" not in without.stderr
    size = sum(
        file.stat().st_size
        for file in (tmp_path / "light").rglob("*")
        if file.is_file() and not file.is_symlink()
    )
    print(f"the light environment takes {size / 1e6:.0f} MB")
