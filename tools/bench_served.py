"""python -m tools.bench_served: how many devices one LLM serves at a fixed pace each, drafting or
streaming, by real streams.

The LLM is as fast as a profile says (`hedge-cloud serve --emulate`). A number of devices is served
when nine answers of ten come at the pace; the largest one is found by doubling and halving.
"""

import argparse
import json
import subprocess
from collections.abc import Callable, Sequence
from functools import partial

from hedge.evaluation.processes import BIN, listening
from hedge.evaluation.profile import read_profile

SECONDS = 8
SLACK = 0.95
MOST = 1024
RATES = (10.0, 20.0)


def keeps_up(address: str, rate: float, options: Sequence[str], devices: int) -> bool:
    command = [
        str(BIN / "hedge-cloud"),
        "loadtest",
        "--cloud",
        address,
        "--devices",
        str(devices),
        "--seconds",
        str(SECONDS),
    ]
    done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["answer_tokens_per_s"]["p10"]) >= SLACK * rate


def most(keeps: Callable[[int], bool]) -> int:
    """The largest number that keeps up, within a fifth."""
    good = 0
    bad = 8
    while bad <= MOST and keeps(bad):
        good = bad
        bad = 2 * bad
    while bad - good > max(1, good // 5):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if keeps(middle) else (good, middle)
    return good


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--profile", default="phone")
    args = parser.parse_args()
    profile = read_profile(args.profile)
    pace = f"{profile.llm_s}:{profile.llm_position_s}"
    # The recordings are played again and again: their prompts are not to be found.
    machine = ("--emulate", pace, "--threads", "1", "--no-prefix-sharing")
    options = (*machine, "--batch-positions", "1024", "--max-streams", "0", "--max-sessions", "0")
    print(
        f"| tokens/s each | llm | hedge | ratio |\n|---|---:|---:|---:|  <!-- an LLM of {pace} -->"
    )
    with listening(
        "hedge-cloud", "serve", "--insecure", "--listen", "127.0.0.1:0", *options
    ) as address:
        for rate in RATES:
            streamed = most(partial(keeps_up, address, rate, ("--stream",)))
            pace = str(1.15 * rate)
            drafted = most(partial(keeps_up, address, rate, ("--tokens-per-s", pace)))
            ratio = f"{drafted / streamed:.2f}" if streamed else "-"
            print(f"| {rate:g} | {streamed} | {drafted} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
