"""python -m tools.bench_responsive PAIR: whether the device's API answers while its SLM drafts.

`hedge serve` on q05.gguf and a cloud on q15.gguf, one thread each; some answers are streamed at
once, and GET /v1/models is asked all the while. Prints the delay of that request, and how far each
answer came.
"""

import argparse
import asyncio
import json
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from hedge.evaluation.processes import listening, local_cloud

QUESTION = "Write a Python function that sorts a list of words by their length, and explain every line of it."
PAUSE = 0.05


def streamed(address: str, seed: int, ends: float) -> int:
    """Tokens of one answer, read until `ends`."""
    body = {
        "model": "hedge",
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
        "seed": seed,
        "max_tokens": 400,
    }
    request = urllib.request.Request(
        f"http://{address}/v1/chat/completions", json.dumps(body).encode()
    )
    tokens = 0
    with urllib.request.urlopen(request, timeout=120) as answer:
        for line in answer:
            tokens += line.startswith(b"data: {")
            if time.monotonic() > ends:
                break
    return tokens


async def measured(address: str, answers: int, seconds: float) -> tuple[list[float], list[int]]:
    # The default pool has fewer threads than there are answers on a machine of two cores.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(answers + 1))
    ends = time.monotonic() + seconds
    reading = [
        asyncio.create_task(asyncio.to_thread(streamed, address, seed, ends))
        for seed in range(answers)
    ]
    delays = []
    while time.monotonic() < ends:
        started = time.monotonic()
        await asyncio.to_thread(
            lambda: urllib.request.urlopen(f"http://{address}/v1/models", timeout=60).read()
        )
        delays.append(time.monotonic() - started)
        await asyncio.sleep(PAUSE)
    return delays, await asyncio.gather(*reading)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pair", type=Path)
    parser.add_argument("--answers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=30.0)
    args = parser.parse_args()
    with local_cloud(
        "--llm", str(args.pair / "q15.gguf"), "--threads", "1", "--max-step-s", "0"
    ) as cloud:
        serve = (
            "serve",
            "--insecure",
            "--http",
            "127.0.0.1:0",
            "--cloud",
            cloud,
            "--slm",
            str(args.pair / "q05.gguf"),
        )
        with listening("hedge", *serve, "--threads", "1", "--patience", "600") as address:
            delays, tokens = asyncio.run(measured(address, args.answers, args.seconds))
    p50, p95 = (1e3 * float(np.quantile(delays, share)) for share in (0.5, 0.95))
    print(
        f"GET /v1/models, {len(delays)} times beside {args.answers} answers: p50 {p50:.0f} ms, p95 {p95:.0f} ms"
    )
    print(f"tokens of each answer in {args.seconds:g} s: {tokens}")


if __name__ == "__main__":
    main()
