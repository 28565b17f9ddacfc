"""Every command, once, as a person would run it."""

import asyncio
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hedge.common.model import bundled_folder
from hedge.edge_client.transport.grpc_link import GrpcLink
from hedge.evaluation.questions import draw_held_out
from tests.effort import scaled
from tests.integration.conftest import (
    BIN,
    ENVIRONMENT,
    Cloud,
    Run,
    StartCloudProcess,
    hedge,
    one_line,
)

QUESTION = "What is 47 + 38?"
KILLS = int(os.environ.get("HEDGE_KILLS", "2"))


def asked(cloud: Cloud, *arguments: str, run: Run = hedge) -> list[dict[str, object]]:
    done = run(
        "generate",
        "--cloud",
        cloud.address,
        "--insecure",
        "--json",
        "--seed",
        "5",
        "--patience",
        "60",
        *arguments,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_generate_answers_with_provenance_and_statistics(cloud: Cloud, here: Run) -> None:
    (found,) = asked(
        cloud, "--prompt", QUESTION, "--temperature", "0", "--system", "cu-hlm", run=here
    )
    stats = found["stats"]
    assert isinstance(stats, dict)
    assert str(found["text"]).endswith("Answer: 85")
    assert len(found["provenance"]) == len(found["token_ids"]) == stats["tokens"]  # type: ignore[arg-type]
    assert stats["verified"] + stats["skipped"] == stats["tokens"]
    assert stats["accepted"] + stats["corrected"] == stats["asked"] == stats["rounds"] > 0
    assert (
        stats["uplink_socket_bytes"]
        > stats["uplink_payload_bytes"]
        > stats["uplink_codec_bytes"]
        > 0
    )
    assert found["finish_reason"] == "stop"
    assert found["system"] == "cu-hlm"
    assert found["guarantee"] == "opportunistic"


@pytest.mark.statistics
def test_the_default_is_lossless_and_saves_round_trips(
    cloud: Cloud, here: Run, tmp_path: Path
) -> None:
    """At any temperature `hedge` gives the tokens that `llm` streams for the seed, waiting for
    verdicts or not.
    """
    path = tmp_path / "p.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": q.text}) + "\n" for q in draw_held_out(scaled(12, 4), seed=3))
    )
    for temperature in ("0", "1"):
        common = ("--prompts", str(path), "--temperature", temperature)
        alone = asked(cloud, "--system", "llm", *common, run=here)
        for options in (
            (),
            ("--max-in-flight", "1"),
            ("--policy", "threshold", "--max-in-flight", "3"),
        ):
            found = asked(cloud, *common, *options, run=here)
            assert [r["token_ids"] for r in found] == [r["token_ids"] for r in alone]
            assert {r["system"] for r in found} == {"hedge"}
            assert {r["guarantee"] for r in found} == {"exact"}
            assert not {"local", "offline"} & {kind for r in found for kind in r["provenance"]}  # type: ignore[attr-defined]
            stats: list[Any] = [r["stats"] for r in found]
            assert sum(s["rounds"] for s in stats) < 0.5 * sum(s["tokens"] for s in stats)
            assert sum(s["uplink_codec_bytes"] for s in stats) < 2.5 * sum(
                s["tokens"] for s in stats
            )


def test_what_verdicts_taught_is_kept_unless_it_is_not_to_be(
    cloud: Cloud, here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def kept(*arguments: str) -> list[str]:
        asked(cloud, "--prompt", QUESTION, *arguments, run=here)
        return [
            path.read_text("utf-8") for path in (tmp_path / "hedge" / "survival").rglob("*.json")
        ]

    assert kept("--no-memory") == []
    (first,) = kept()
    (second,) = kept()
    assert second != first
    assert kept("--no-memory") == [second]


def test_every_system_answers_a_file_of_prompts(cloud: Cloud, here: Run, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    questions = draw_held_out(4)
    path.write_text(
        "".join(json.dumps({"prompt": q.text, "reference": q.answer}) + "\n" for q in questions)
    )
    for system in ("slm", "llm", "hlm", "rand-hlm", "u-hlm", "cu-hlm", "hedge"):
        found = asked(cloud, "--prompts", str(path), "--system", system, run=here)
        assert [record["prompt"] for record in found] == [q.text for q in questions]
        kinds = {kind for record in found for kind in record["provenance"]}  # type: ignore[attr-defined]
        allowed = {"slm": {"local"}, "llm": {"bonus"}, "hlm": {"accepted", "corrected"}}
        allowed["hedge"] = {"accepted", "corrected", "bonus"}
        assert kinds <= allowed.get(system, {"local", "accepted", "corrected"})


@pytest.mark.process
def test_same_seed_same_tokens_across_restarts_of_both_sides(
    start_cloud_process: StartCloudProcess, here: Run
) -> None:
    runs = []
    for run in (hedge, here):
        server = start_cloud_process("--threads", "1")
        options = (
            "--prompt",
            "Tell me a tale about a fox.",
            "--max-new-tokens",
            "60",
            "--system",
            "cu-hlm",
        )
        runs.append(asked(server, *options, run=run)[0])
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
    assert runs[0]["token_ids"] == runs[1]["token_ids"]
    assert runs[0]["provenance"] == runs[1]["provenance"]


@pytest.mark.process
def test_a_server_killed_in_mid_answer_and_started_again_changes_nothing(
    start_cloud_process: StartCloudProcess, here: Run
) -> None:
    """kill -9, twice (`make soak`: five times): `hedge` waits, replays and goes on, with the words
    of an undisturbed answer.
    """
    server = start_cloud_process("--threads", "1")
    ask = (
        "generate",
        "--cloud",
        server.address,
        "--insecure",
        "--seed",
        "6",
        "--prompt",
        "Tell me a tale about a fox.",
    )
    whole = here(*ask)
    assert whole.returncode == 0
    # Unbuffered: what is left to read is read by communicate.
    command = [str(BIN / "hedge"), *ask]
    asking = subprocess.Popen(
        command, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    assert asking.stdout
    assert asking.stderr
    said = b""
    for _ in range(KILLS):
        said += asking.stdout.read(40)
        server.process.kill()
        server.process.wait()
        server = start_cloud_process("--threads", "1", "--listen", server.address)
    rest, errors = asking.communicate(timeout=240)
    assert asking.returncode == 0, errors
    assert (said + rest).decode() == whole.stdout
    assert b"no Hedge cloud answers" in errors
    assert b"the cloud is back" in errors


@pytest.mark.statistics
def test_greedy_asking_always_is_the_llm_alone(cloud: Cloud, here: Run, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": q.text}) + "\n" for q in draw_held_out(scaled(50, 8), seed=4))
    )
    common = ("--prompts", str(path), "--temperature", "0", "--max-new-tokens", "40")
    alone = asked(cloud, "--system", "llm", *common, run=here)
    tested = asked(
        cloud,
        "--system",
        "cu-hlm",
        "--policy",
        "always",
        "--draft-from",
        "sent",
        "--guarantee",
        "exact",
        *common,
        run=here,
    )
    assert [r["token_ids"] for r in tested] == [r["token_ids"] for r in alone]
    assert {r["guarantee"] for r in tested} == {"exact"}


def test_a_stop_string_ends_the_answer_and_is_cut_off(cloud: Cloud, here: Run) -> None:
    (found,) = asked(
        cloud, "--prompt", QUESTION, "--temperature", "0", "--stop", "Answer", run=here
    )
    assert found["finish_reason"] == "stop"
    assert "Answer" not in str(found["text"])
    assert "=" in str(found["text"])


def test_chat_off_a_terminal_is_plain_text_with_counts(cloud: Cloud, here: Run) -> None:
    lines = [
        "/help",
        QUESTION,
        "/system slm",
        "Hello",
        "/system nonsense",
        "/stats",
        "/reset",
        "/quit",
        "never read",
    ]
    done = here(
        "chat",
        "--cloud",
        cloud.address,
        "--insecure",
        "--temperature",
        "0",
        "--seed",
        "1",
        stdin="\n".join(lines),
    )
    assert done.returncode == 0, done.stderr
    assert "Answer: 85" in done.stdout
    assert re.search(r"\d+ accepted", done.stdout)
    assert re.search(r"\d+ local", done.stdout)
    assert "2 answers" in done.stdout
    assert "no system 'nonsense'" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_chat_that_outgrows_the_context_drops_its_oldest_turns(
    cloud: Cloud, here: Run, tmp_path: Path
) -> None:
    """The system message stays, and a turn of the user's follows it."""
    long_turn = "Say these words backwards: " + "river stone lamp " * 60
    rules = tmp_path / "rules"
    saved = tmp_path / "saved"
    rules.write_text(json.dumps({"messages": [{"role": "system", "content": "Be brief."}]}))
    options = (
        "--cloud",
        cloud.address,
        "--insecure",
        "--system",
        "slm",
        "--seed",
        "1",
        "--max-new-tokens",
        "8",
    )
    done = here(
        "chat", *options, stdin="\n".join([f"/load {rules}", *[long_turn] * 6, f"/save {saved}"])
    )
    assert done.returncode == 0, done.stderr
    assert "outgrown the context of 1024" in done.stdout
    roles = [message["role"] for message in json.loads(saved.read_text())["messages"]]
    assert roles[:2] == ["system", "user"]
    assert 3 <= len(roles) < 13


def test_calibrate_writes_a_file_that_generate_uses_and_others_refuse(
    cloud: Cloud, here: Run, tmp_path: Path
) -> None:
    prompts = tmp_path / "p.jsonl"
    out = tmp_path / "c.json"
    prompts.write_text(
        "".join(json.dumps({"prompt": q.text}) + "\n" for q in draw_held_out(16, seed=9))
    )
    common = ("--cloud", cloud.address, "--insecure", "--seed", "5")
    done = here(
        "calibrate", *common, "--prompts", str(prompts), "--out", str(out), "--max-new-tokens", "60"
    )
    assert done.returncode == 0, done.stderr
    learned = json.loads(done.stdout)
    assert learned["prompts"] == 16
    assert set(learned["measures"]) == {
        "perturbation",
        "expected_perturbation",
        "entropy",
        "margin",
        "top1",
    }
    quantile = (
        "--calibration",
        str(out),
        "--threshold-rule",
        "quantile",
        "--skip-rate",
        "0.6",
        "--measure",
        "entropy",
    )
    quantile = ("--system", "cu-hlm", *quantile)
    (found,) = asked(cloud, "--prompt", QUESTION, *quantile, run=here)
    assert found["threshold"] is not None
    for truncation in ("offline", "online"):
        (found,) = asked(
            cloud,
            "--prompt",
            QUESTION,
            *quantile,
            "--truncation",
            truncation,
            "--theta",
            "0.2",
            run=here,
        )
        assert found["stats"]["asked"] > 0  # type: ignore[index]
    one_line(
        here(
            "generate",
            *common,
            "--prompt",
            QUESTION,
            *quantile,
            "--truncation",
            "offline",
            "--eta",
            "2",
        ),
        1,
        "eta",
    )
    other_warp = here("generate", *common, "--prompt", QUESTION, *quantile, "--temperature", "0.5")
    one_line(other_warp, 1, "warp", "0.5")
    certify = here(
        "generate",
        *common,
        "--prompt",
        QUESTION,
        "--calibration",
        str(out),
        "--threshold-rule",
        "max-risk",
    )
    one_line(certify, 1, "16 calibration prompts")


def test_evaluate_reports_exact_match_and_bytes(cloud: Cloud, here: Run) -> None:
    options = (
        "--cloud",
        cloud.address,
        "--insecure",
        "--questions",
        "8",
        "--temperature",
        "0",
        "--seed",
        "1",
    )
    done = here("evaluate", *options, "--systems", "slm,llm,cu-hlm,hedge", "--json")
    assert done.returncode == 0, done.stderr
    slm, llm, cu, ours = (json.loads(line) for line in done.stdout.splitlines())
    assert slm["uplink_payload_bytes_per_token"] == 0
    assert cu["uplink_payload_bytes_per_token"] > 0
    assert len(slm["families"]) == 8
    assert llm["fidelity"] == ours["fidelity"] == 1.0
    assert llm["families"] == ours["families"]
    assert slm["fidelity"] <= cu["fidelity"] <= 1
    assert slm["llm_perplexity"] >= llm["llm_perplexity"] >= 1
    assert llm["relative_accuracy"] == [1.0, 1.0, 1.0]


def test_options_come_from_a_toml_file_and_the_command_line_wins(
    cloud: Cloud, here: Run, tmp_path: Path
) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(
        f'cloud = "{cloud.address}"\ninsecure = true\ntemperature = 0\nmax_new_tokens = 3\nseed = '
        "4\n"
    )
    done = here(
        "generate", "--config", str(config), "--prompt", QUESTION, "--json", "--max-new-tokens", "5"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stats"]["tokens"] == 5


@pytest.mark.process
@pytest.mark.parametrize("system", ["llm", "hlm"])
def test_a_server_killed_in_the_middle_is_one_line(
    system: str, start_cloud_process: StartCloudProcess
) -> None:
    server = start_cloud_process("--threads", "1")
    command = [
        str(BIN / "hedge"),
        "generate",
        "--cloud",
        server.address,
        "--insecure",
        "--system",
        system,
        "--seed",
        "3",
    ]
    command += [
        "--prompt",
        "Tell me a tale about a wolf.",
        "--max-new-tokens",
        "900",
        "--stop",
        "never said",
    ]
    command += ["--on-disconnect", "fail"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert process.stdout
    assert process.stdout.read(1)
    server.process.kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert len(said.splitlines()) == 1
    assert server.address in said


@pytest.mark.process
def test_a_killed_client_frees_its_cache(cloud: Cloud) -> None:
    command = [
        str(BIN / "hedge"),
        "generate",
        "--cloud",
        cloud.address,
        "--insecure",
        "--system",
        "llm",
    ]
    command += [
        "--prompt",
        "Tell me a tale about a wolf.",
        "--max-new-tokens",
        "900",
        "--seed",
        "3",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    assert process.stdout
    assert process.stdout.read(1)
    process.kill()
    process.wait()
    process.stdout.close()

    async def drained() -> bool:
        for _ in range(5000):
            async with GrpcLink(cloud.address) as link:
                if not link.info.open_sessions and not link.info.cached_tokens:
                    return True
        return False

    assert asyncio.run(drained())


def test_answers_of_another_model_are_not_gone_on_with(
    cloud: Cloud, here: Run, tmp_path: Path
) -> None:
    asked = (
        "evaluate",
        "--cloud",
        cloud.address,
        "--insecure",
        "--questions",
        "1",
        "--max-new-tokens",
        "4",
        "--seed",
        "1",
    )
    asked += ("--systems", "slm", "--answers", str(tmp_path), "--resume", "--threads", "1")
    assert here(*asked).returncode == 0
    assert here(*asked).returncode == 0
    one_line(here(*asked, "--slm", str(bundled_folder() / "llm")), 2, "is of another run: slm")
