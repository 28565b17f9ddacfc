"""python -m tools.bench_versions OTHER: the bundled pair's tokens/s of every system here, over those in the checkout OTHER.

A device process and a cloud of each checkout, one thread each, answer the same questions in turn: both see the same machine.
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
QUESTIONS, ROUNDS = 4, 9


async def work(address: str) -> None:
    """Reads the name of a system a line, and writes the tokens/s of its answers. Runs on either checkout."""
    from common.model import load
    from edge_client.engine.session import Session
    from edge_client.public import choose
    from edge_client.transport.grpc_link import GrpcLink
    from evaluation.tasks import tasks

    slm = load("bundled", "slm")
    asked = [slm.encode_chat(task.prompt.messages) for task in tasks(None, QUESTIONS, 0)]
    async with GrpcLink(address) as link:
        for line in sys.stdin:
            settings = choose(line.strip(), slm=slm, link=link, temperature=0.0, max_new_tokens=48)
            tokens, seconds = 0, 0.0
            for ids in asked:
                session = Session(slm, ids, settings, link if settings.needs_cloud else None)
                async for _ in session.tokens():
                    pass
                tokens, seconds = tokens + session.statistics.tokens, seconds + session.statistics.wall_s
            print(tokens / seconds, flush=True)


class Version:
    """The programs of a checkout."""

    def __init__(self, root: Path) -> None:
        self._environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        serve = "import sys; from cloud_server.cli import main; main()"
        self._cloud = subprocess.Popen(
            [sys.executable, "-c", serve, "serve", "--insecure", "--listen", "127.0.0.1:0", "--threads", "1"],
            stderr=subprocess.PIPE,
            text=True,
            cwd=root,
            env=self._environment,
        )
        assert self._cloud.stderr
        address = next(found[1] for line in self._cloud.stderr if (found := re.search(r"listening on (\S+)", line)))
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
    here, other = Version(ROOT), Version(args.other.resolve())
    print("| system | tokens/s here | there | median ratio |\n|---|---:|---:|---:|")
    for system in SYSTEMS:
        pairs = [(here.speed(system), other.speed(system)) for _ in range(ROUNDS)][1:]
        ours, theirs = (median(column) for column in zip(*pairs, strict=True))
        print(f"| {system} | {ours:.1f} | {theirs:.1f} | {median(a / b for a, b in pairs):.3f} |", flush=True)
    here.end()
    other.end()


if __name__ == "__main__":
    main()
