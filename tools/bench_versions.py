"""python -m tools.bench_versions OTHER: the bundled pair's tokens/s of every system here, over
those in the checkout OTHER.

A device process and a cloud of each checkout, one thread each, answer the same questions in turn:
both see the same machine.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
SYSTEMS = ("slm", "llm", "hlm", "rand-hlm", "u-hlm", "cu-hlm", "gelato", "hedge")
QUESTIONS = 4
ROUNDS = 9


async def work(address: str) -> None:
    """Reads the name of a system a line, and writes the tokens/s of its answers. Runs on either
    checkout.
    """
    from hedge.common.model import load
    from hedge.edge_client.client import AsyncHedge
    from hedge.edge_client.config import CloudConfig, SamplingParams
    from hedge.evaluation.tasks import tasks

    slm = load("bundled", "slm")
    asked = tasks(None, QUESTIONS, 0)
    sampling = SamplingParams(temperature=0.0, max_new_tokens=48)
    cloud = CloudConfig((address,), insecure=True)
    for line in sys.stdin:
        async with AsyncHedge(cloud, slm=slm, system=line.strip()) as hedge:
            answers = [await hedge.generate(task.prompt.messages, sampling) for task in asked]
        done = [answer.statistics for answer in answers]
        print(sum(one.tokens for one in done) / sum(one.wall_s for one in done), flush=True)


class Version:
    """The programs of a checkout."""

    def __init__(self, root: Path) -> None:
        self._environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        serve = "import sys; from hedge.cloud_server.cli import main; main()"
        self._cloud = subprocess.Popen(
            [
                sys.executable,
                "-c",
                serve,
                "serve",
                "--insecure",
                "--listen",
                "127.0.0.1:0",
                "--threads",
                "1",
            ],
            stderr=subprocess.PIPE,
            text=True,
            cwd=root,
            env=self._environment,
        )
        assert self._cloud.stderr
        address = next(
            found[1]
            for line in self._cloud.stderr
            if (found := re.search(r"listening on (\S+)", line))
        )
        self._device = subprocess.Popen(
            [sys.executable, __file__, "--work", address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env=self._environment,
        )

    def speed(self, system: str) -> float:
        assert self._device.stdin
        assert self._device.stdout
        print(system, file=self._device.stdin, flush=True)
        return float(self._device.stdout.readline())

    def end(self) -> None:
        for process in (self._device, self._cloud):
            process.terminate()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, nargs="?")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        asyncio.run(work(args.work))
        return
    here = Version(ROOT)
    other = Version(args.other.resolve())
    print("| system | tokens/s here | there | median ratio |\n|---|---:|---:|---:|")
    for system in SYSTEMS:
        pairs = [(here.speed(system), other.speed(system)) for _ in range(ROUNDS)][1:]
        ours, theirs = (median(column) for column in zip(*pairs, strict=True))
        print(
            f"| {system} | {ours:.1f} | {theirs:.1f} | {median(a / b for a, b in pairs):.3f} |",
            flush=True,
        )
    here.end()
    other.end()


if __name__ == "__main__":
    main()
