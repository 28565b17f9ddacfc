"""hedge simulate and hedge plot, as a researcher runs them."""

import json
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration.conftest import BIN, ENVIRONMENT, Run, hedge, one_line

pytestmark = pytest.mark.research

SYSTEMS = ("slm", "llm", "hlm", "cu-hlm:measure=margin,threshold=0.05", "cu-hlm:truncation=online")
# More than one worker's share.
QUESTIONS = 12
OPTIONS = (
    *f"--questions {QUESTIONS} --temperature 0 --seed 3 --snr -10 10 --bandwidth 1e6 --fading "
    "block".split(),
    *"--tau-slm 0.002 --tau-llm 0.009 --systems".split(),
    *SYSTEMS,
)


def answered(folder: Path) -> list[dict[str, object]]:
    """What stands there in whole lines: the last one may be on its way."""
    files = [
        file.read_text().splitlines(keepends=True)[1:] for file in folder.glob("answers-*.jsonl")
    ]
    return [json.loads(line) for lines in files for line in lines if line.endswith("\n")]


def test_an_interrupted_sweep_goes_on_and_is_drawn(tmp_path: Path, here: Run) -> None:
    folder = tmp_path / "runs"
    command = [BIN / "hedge", "simulate", *OPTIONS, "--out", str(folder), "--jobs", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    assert process.stderr
    while process.returncode is None and not (folder.is_dir() and answered(folder)):
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in said
    kept = answered(folder)
    assert 0 < len(kept) < QUESTIONS * len(SYSTEMS)
    one_line(here("simulate", *OPTIONS, "--out", str(folder)), 2, "--resume")

    done = hedge("simulate", *OPTIONS, "--out", str(folder), "--resume", "--json")
    assert done.returncode == 0, done.stderr
    found = answered(folder)
    assert all(entry in found for entry in kept)
    assert len(found) == QUESTIONS * len(SYSTEMS)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    speed = {(row["run"].split(" #")[0], row["snr_db"]): row["tokens_per_s"] for row in rows}
    assert len(rows) == len(SYSTEMS) * 2
    assert speed["slm", -10.0] == speed["slm", 10.0] == pytest.approx(500)
    assert (
        speed["hlm", -10.0]
        < speed["hlm", 10.0]
        < speed["cu-hlm:measure=margin,threshold=0.05", 10.0]
        < 500
    )

    again = here("simulate", *OPTIONS, "--out", str(folder), "--resume", "--json")
    assert again.stdout == done.stdout
    config = tmp_path / "slower.toml"
    config.write_text(
        'tau_slm = 0.004\ntau_llm = 0.009\nsnr = [-10, 10]\nsystems = ["slm", "llm"]\n'
    )
    slower = here(
        "simulate",
        *OPTIONS[:6],
        *OPTIONS[9:13],
        "--config",
        str(config),
        "--out",
        str(folder),
        "--resume",
        "--json",
    )
    assert slower.returncode == 0, slower.stderr
    rows = [json.loads(line) for line in slower.stdout.splitlines()]
    assert [row["tokens_per_s"] for row in rows if row["system"] == "slm"] == pytest.approx(
        [250, 250]
    )
    assert len(rows) == 4
    for kind, files in (
        ("throughput", "rows.jsonl"),
        ("frontier", "rows.jsonl"),
        ("skips", "answers-cu*.jsonl"),
    ):
        drawn = here("plot", kind, *map(str, folder.glob(files)), "--out", str(tmp_path / "plots"))
        assert drawn.returncode == 0, drawn.stderr
        assert (tmp_path / "plots" / f"{kind}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / "plots" / f"{kind}.svg").read_text()
    one_line(
        here("plot", "roc", str(folder / "rows.jsonl"), "--out", str(tmp_path)),
        2,
        "'rows'",
        "tokens",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--snr", "nan"], "SNR nan"),
        (["--snr=-inf"], "SNR -inf"),
        (["--bandwidth", "0"], "bandwidth 0"),
        (["--distance", "0"], "distance 0"),
        (["--questions", "0"], "questions 0"),
        (["--seeds", "0"], "seeds 0"),
        (["--batch", "0"], "batch 0"),
        (["--batch", "2"], "--batch is for two GGUF models"),
        (["--difference=-1"], "difference -1"),
        (["--task", "nothing.jsonl"], "nothing.jsonl"),
        (["--tau-slm", "1"], "--tau-llm"),
        (["--tau-slm=-1", "--tau-llm", "1"], "-1"),
        (["--profile", "/nowhere.toml"], "/nowhere.toml"),
        (["--vocab", "1"], "vocab 1"),
        (["--systems", "nonsense"], "nonsense"),
        (["--systems", "cu-hlm:k"], "OPTION=VALUE"),
        (["--systems", "cu-hlm:theta=0"], "theta 0"),
        (["--systems", "cu-hlm:nonsense=1"], "nonsense"),
    ],
)
def test_bad_sweeps_are_named(arguments: list[str], words: str, here: Run, tmp_path: Path) -> None:
    one_line(here("simulate", "--out", str(tmp_path / "x"), "--seed", "1", *arguments), 2, words)


def test_only_one_run_writes_to_a_folder(here: Run, tmp_path: Path) -> None:
    import fcntl

    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        one_line(here("simulate", "--out", str(tmp_path), "--seed", "1"), 1, "another run")


def test_links_are_replayed_from_traces_that_are_made_once(here: Run, tmp_path: Path) -> None:
    folder = tmp_path / "links"
    cell = "--profiles phone --round-trips 0.05 --json".split()
    common = ("simulate", "links", "--questions", "3", "--seed", "1", "--max-new-tokens", "40")
    found = []
    for options in (["--temperature", "0"], ["--temperature", "1", "--resume"]):
        done = here(*common, "--out", str(folder), *options, *cell)
        assert done.returncode == 0, done.stderr
        found.append([json.loads(line) for line in done.stdout.splitlines()])
    assert [(row["temperature"], row["prefer"]) for row in found[1]] == [
        (temperature, prefer)
        for temperature in (0.0, 1.0)
        for prefer in ("speed", "balanced", "cloud")
    ]
    # On virtual time a run is what it was.
    assert found[1][:3] == found[0]
    again = here("simulate", "links", "--traces", str(folder / "traces.jsonl"), *cell)
    assert [json.loads(line) for line in again.stdout.splitlines()] == found[1]
    for row in found[1]:
        assert 0 < row["passes"] < 1 <= row["positions"]
    shown = here("simulate", "links", "--traces", str(folder / "traces.jsonl"))
    assert "over llm" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--round-trips", "-1", "--out", "x"], "round-trips -1"),
        ([], "give one of the two"),
        (["--traces", "/nowhere.jsonl"], "/nowhere.jsonl"),
        (["--out", "x", "--resume"], "give its --seed"),
        (["--out", "x", "--profiles", "watch"], "watch"),
        (["--out", "x", "--prefer", "money"], "money"),
    ],
)
def test_links_that_are_none_are_named(arguments: list[str], words: str, here: Run) -> None:
    one_line(here("simulate", "links", *arguments), 2, words)
