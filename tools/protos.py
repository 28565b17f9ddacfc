"""python -m tools.protos [--check]: writes the stubs of proto/hedge/v1, or says whether the
committed ones are stale.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).parent.parent / "proto"
SOURCE = "hedge/v1/hedge.proto"
STUBS = ("hedge_pb2.py", "hedge_pb2.pyi", "hedge_pb2_grpc.py", "hedge_pb2_grpc.pyi")


def generate(out: Path) -> None:
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    outputs = [f"--{kind}_out={out}" for kind in ("python", "mypy", "grpc_python", "mypy_grpc")]
    if protoc.main(["protoc", f"-I{ROOT}", f"-I{well_known}", *outputs, SOURCE]):
        raise SystemExit("protoc failed")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        for stub in STUBS:
            fresh = Path(folder, "hedge/v1", stub)
            kept = ROOT / "hedge/v1" / stub
            if "--check" not in sys.argv:
                shutil.copyfile(fresh, kept)
            elif not kept.exists() or fresh.read_bytes() != kept.read_bytes():
                raise SystemExit(f"{kept} does not match {SOURCE}: run make proto")


if __name__ == "__main__":
    main()
