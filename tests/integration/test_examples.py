"""The examples as they stand, against a cloud at the address they name; the doctor; the public API."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import edge_client
from common.errors import BadInput
from common.model import LanguageModel
from edge_client.public import choose
from tests.integration.conftest import ENVIRONMENT, Cloud, Run

ROOT = Path(__file__).parents[2]


def ran(name: str, address: str, tmp_path: Path, default: str) -> str:
    """An example's output. Only the port in it is another one."""
    script = tmp_path / name
    script.write_text((ROOT / "examples" / name).read_text().replace(default, address))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=ENVIRONMENT, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tour_and_the_robot(cloud: Cloud, tmp_path: Path) -> None:
    tour = ran("tour.py", cloud.address, tmp_path, "127.0.0.1:7411")
    assert re.search(r"hedge .*Answer: \[?8\]?\[?5\]?.*exact: True", tour)
    robot = ran("robot.py", cloud.address, tmp_path, "127.0.0.1:7411").splitlines()
    assert len(robot) == 60
    assert all("risk taken" in line for line in robot)


def test_every_public_name_is_there() -> None:
    for name in edge_client.__all__:
        assert getattr(edge_client, name).__doc__
    with pytest.raises(AttributeError, match="no attribute"):
        _ = edge_client.nothing


def test_settings_by_keyword(make_lm: Callable[..., LanguageModel]) -> None:
    slm = make_lm(seed=1)
    chosen = choose("hedge", slm=slm, temperature=0.5, threshold=0.2, max_new_tokens=5)
    assert (chosen.warp.temperature, chosen.threshold, chosen.max_new_tokens, chosen.guarantee) == (0.5, 0.2, 5, "exact")
    with pytest.raises(BadInput, match="no option 'temprature'"):
        choose("slm", slm=slm, temprature=1)
    with pytest.raises(BadInput, match="no system 'best'"):
        choose("best", slm=slm)


def test_the_doctor_finds_what_is_well_and_what_is_not(cloud: Cloud, here: Run) -> None:
    well = here("doctor", "--insecure", "--cloud", cloud.address)
    assert well.returncode == 0, well.stdout
    assert "WRONG" not in well.stdout
    for word in ("bundled slm", "bundled llm", "there and back", "this pair has one"):
        assert word in well.stdout
    away = here("doctor", "--insecure", "--cloud", "127.0.0.1:9")
    assert away.returncode == 1
    assert "is hedge-cloud serve running at 127.0.0.1:9" in away.stdout
    assert "1 of" in away.stderr
    broken = here("doctor", "--insecure", "--slm", "/nowhere", "--json")
    assert broken.returncode == 1
    assert '"well": false' in broken.stdout
