"""Dependencies point one way, and the mathematics runs without grpc, torch or transformers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "common": {"edge_client", "cloud_server", "evaluation", "wireless", "tools"},
    "edge_client": {"cloud_server", "evaluation", "wireless", "tools"},
    "cloud_server": {"edge_client", "evaluation", "wireless", "tools"},
    "wireless": {"edge_client", "cloud_server", "tools"},
    "evaluation": {"tools"},
}
PURE = (
    "common.codec", "common.distribution", "common.noise", "common.sampling", "cloud_server.verify", "edge_client.calibration",
    "edge_client.measures", "edge_client.policy", "edge_client.settings", "edge_client.truncation",
)  # fmt: skip


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package: str) -> None:
    for file in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in names} & FORBIDDEN[package], file


def test_the_mathematics_needs_numpy_alone() -> None:
    check = f"import sys, {', '.join(PURE)}; assert not {{'grpc', 'torch', 'transformers'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, cwd=ROOT)
