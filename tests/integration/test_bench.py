"""hedge bench with real processes on tiny models: one cell, interrupted by nothing, gone on with,
drawn.
"""

import json
from pathlib import Path

import pytest

from tests.conftest import MakeFolder
from tests.integration.conftest import Run, one_line


@pytest.fixture(scope="module")
def folders(make_folder: MakeFolder) -> tuple[str, str]:
    return str(make_folder(seed=1)), str(make_folder(seed=2))


@pytest.mark.process
def test_a_bench_runs_goes_on_and_is_drawn(
    folders: tuple[str, str], tmp_path: Path, here: Run
) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text(
        "".join(json.dumps({"prompt": f"w{n} w2", "reference": "w1"}) + "\n" for n in (1, 3))
    )
    profile = tmp_path / "quick.toml"
    profile.write_text("slm_s = 0.001\nllm_s = 0.002\ncolocated_slm_s = 0.001\n")
    out = tmp_path / "out"
    words = (
        "bench",
        "--slm",
        folders[0],
        "--llm",
        folders[1],
        *f"--prompts {prompts} --out {out} --rates 1e6 --round-trips 0.01 --profiles "
        f"{profile}".split(),
        *"--temperature 0 --max-new-tokens 6 --seed 1 --threshold 0.5 --resume --json".split(),
    )
    first = here(*words, "--questions", "0", "--systems", "slm", "llm", "hedge")
    assert first.returncode == 0, first.stderr
    rows = {row["system"]: row for row in map(json.loads, first.stdout.splitlines())}
    assert set(rows) == {"slm", "llm", "hedge"}
    assert rows["hedge"]["same"] == 1
    assert rows["slm"]["rounds"] == 0 < rows["hedge"]["rounds"] <= rows["llm"]["rounds"] == 1
    assert all(row["answers"] == 2 and row["profile"] == "quick" for row in rows.values())
    before = (out / "bench.jsonl").read_bytes()
    more = here(
        *words, "--questions", "0", "--systems", "slm", "llm", "hedge", "colocated", "assisted"
    )
    assert more.returncode == 0, more.stderr
    after = (out / "bench.jsonl").read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == before.count(b"\n") + 4
    rows = {row["system"]: row for row in map(json.loads, more.stdout.splitlines())}
    assert rows["colocated"]["same"] == rows["assisted"]["same"] == 1
    drawn = here("plot", "bench", str(out / "bench.jsonl"), "--out", str(tmp_path / "plots"))
    assert drawn.returncode == 0, drawn.stderr
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {
        f"bench-{name}.{kind}"
        for name in ("winners", "bars", "timeline")
        for kind in ("png", "svg")
    }
    one_line(here(*words, "--questions", "1"), 2, "of another run: questions")
