"""The examples as they stand, against a real cloud; the doctor; the public API."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hedge
from hedge import AsyncHedge, CloudConfig, Hedge, SamplingParams, Warp
from hedge.common.errors import BadInput, Disconnected
from tests.integration.conftest import ENVIRONMENT, Cloud, Run, one_line

ROOT = Path(__file__).parents[2]


def ran(name: str, address: str, tmp_path: Path) -> str:
    """An example's output. Only the port in it is another one."""
    script = tmp_path / name
    text = (ROOT / "examples" / name).read_text()
    assert text.count("127.0.0.1:7411") == 1
    script.write_text(text.replace("127.0.0.1:7411", address))
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.process
def test_the_tour_and_the_robot(cloud: Cloud, tmp_path: Path) -> None:
    tour = ran("tour.py", cloud.address, tmp_path)
    assert re.search(r"hedge .*Answer: \[?8\]?\[?5\]?.*exact", tour)
    robot = ran("robot.py", cloud.address, tmp_path).splitlines()
    assert len(robot) == 60
    assert all("risk taken" in line for line in robot)


def test_every_public_name_is_there() -> None:
    for name in hedge.__all__:
        assert getattr(hedge, name).__doc__
    with pytest.raises(AttributeError, match="no attribute"):
        _ = hedge.nothing


def test_the_python_api_answers_and_says_what_it_lacks(cloud: Cloud) -> None:
    reached = CloudConfig((cloud.address,), insecure=True)
    sampling = SamplingParams(Warp(0), max_new_tokens=40)
    with Hedge(reached, system="llm") as large, Hedge(reached) as hedge:
        answer = hedge.generate("What is 47 + 38?", sampling)
        assert (
            answer.token_ids
            == large.generate([{"role": "user", "content": "What is 47 + 38?"}], sampling).token_ids
        )
        assert answer.text == "".join(
            emitted.text for emitted in hedge.stream("What is 47 + 38?", sampling)
        )
        assert answer.guarantee.startswith("exact")

    async def together() -> list[str]:
        async with AsyncHedge(reached) as hedge:
            return [
                one.text
                for one in await asyncio.gather(
                    *(hedge.generate(f"What is {n} + 4?", sampling) for n in range(3))
                )
            ]

    assert all(asyncio.run(together()))
    with pytest.raises(BadInput, match="no system 'best'"):
        Hedge(reached, system="best")
    with pytest.raises(BadInput, match="system hedge needs a cloud"):
        Hedge()
    with (
        pytest.raises(Disconnected, match="no Hedge cloud answers"),
        Hedge(CloudConfig(("127.0.0.1:9",), insecure=True)),
    ):
        pass


def test_the_doctor_finds_what_is_well_and_what_is_not(cloud: Cloud, here: Run) -> None:
    well = here("doctor", "--insecure", "--cloud", cloud.address)
    assert well.returncode == 0, well.stdout
    assert "WRONG" not in well.stdout
    for word in (
        "bundled slm",
        "bundled llm",
        "there and back",
        "this pair has one",
        "LLM's stream",
        "break-even: hedge is faster",
    ):
        assert word in well.stdout
    one_line(here("doctor", "--insecure", "--prompts", "/nowhere.jsonl"), 2, "/nowhere.jsonl")
    one_line(here("doctor", "--insecure", "--temperature=-1"), 2, "-1")
    away = here("doctor", "--insecure", "--cloud", "127.0.0.1:9")
    assert away.returncode == 1
    assert "is hedge-cloud serve running at 127.0.0.1:9" in away.stdout
    assert "1 of" in away.stderr
    broken = here("doctor", "--insecure", "--slm", "/nowhere", "--json")
    assert broken.returncode == 1
    assert '"well": false' in broken.stdout
