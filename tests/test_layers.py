"""Runtimes stay behind their seams, and the mathematics runs without grpc, torch or transformers.
`make lint` checks layers.
"""

import ast
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import hedge
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
    modules = {where.partition(":")[0] for where in commands().where.values()} | {
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


def test_the_wheel_has_one_name_and_every_package_of_the_rooms() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = set(settings["tool"]["setuptools"]["packages"])
    assert {name.split(".")[0] for name in packages} == {"hedge"}
    rooms = ("common", "edge_client", "cloud_server", "evaluation")
    folders = {file.parent for room in rooms for file in (ROOT / room).rglob("__init__.py")}
    found = {f"hedge.{folder.relative_to(ROOT)}".replace("/", ".") for folder in folders}
    assert found <= packages


def test_no_module_imports_in_a_circle() -> None:
    """Imports within functions count."""
    files = {module_of(file): file for room in PACKAGES for file in (ROOT / room).rglob("*.py")}
    graph = {name: imported_modules(file) & files.keys() - {name} for name, file in files.items()}
    TopologicalSorter(graph).prepare()


def test_the_public_names_exist() -> None:
    assert {"AsyncHedge", "Hedge", "LanguageModel", "load"} <= set(hedge.__all__)
    for name in hedge.__all__:
        assert getattr(hedge, name) is not None, name


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "research" else ("hedge", *parts))


def imported_modules(file: Path) -> set[str]:
    """The modules that a file names anywhere in its imports."""
    found = set[str]()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found
