"""Runtimes stay behind their seams, and the mathematics runs without grpc, torch or transformers.
`make lint` checks layers.
"""

import ast
import subprocess
import sys
from pathlib import Path

from hedge.edge_client.cli.commands import commands

ROOT = Path(__file__).parent.parent
PACKAGES = ("common", "edge_client", "cloud_server", "evaluation", "research")
PURE = (
    "hedge.common.codec",
    "hedge.common.distribution",
    "hedge.common.noise",
    "hedge.common.sampling",
    "hedge.cloud_server.verification.base",
    "hedge.edge_client.engine.gates.calibration",
    "hedge.edge_client.engine.gates.measures",
    "hedge.edge_client.engine.gates.policy",
    "hedge.edge_client.config",
    "hedge.edge_client.engine.verification.truncation",
)


def imported(file: Path) -> set[str]:
    """The top-level names that a file imports anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    return {name.split(".")[0] for name in names}


RUNTIMES = {"torch", "transformers", "llama_cpp", "tokenizers", "safetensors", "vllm"}
# Behind the seams, and what measures or studies a runtime itself.
WITH_RUNTIME = {
    "common/torch_model.py",
    "common/llama_decoder.py",
    "common/llama_model.py",
    "cloud_server/engines/torch_engine.py",
    "cloud_server/engines/llama_engine.py",
    "cloud_server/engines/vllm_draw.py",
    "cloud_server/engines/vllm_engine.py",
    "cloud_server/engines/row_sizes.py",
    "evaluation/assisted.py",
    "research/benches/bare.py",
    "research/benches/exact.py",
    "research/benches/micro.py",
    "research/wireless/masked.py",
    "research/wireless/similarity.py",
}


def test_only_the_files_behind_the_seams_import_a_runtime() -> None:
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            if str(file.relative_to(ROOT)) not in WITH_RUNTIME:
                assert not imported(file) & RUNTIMES, file


def test_no_command_loads_a_runtime_before_its_model() -> None:
    modules = {where.partition(":")[0] for where in commands().values()} | {
        "hedge.cloud_server.serving.server"
    }
    check = f"import sys, {', '.join(modules)}; assert not {RUNTIMES!r} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT)


def test_help_loads_no_numbers() -> None:
    check = (
        "import sys, hedge.edge_client.cli.main; "
        "assert not {'numpy', 'grpc', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT)


def test_the_mathematics_needs_numpy_alone() -> None:
    loaded = {"grpc", "torch", "transformers"}
    check = f"import sys, {', '.join(PURE)}; assert not {loaded!r} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT)
