"""The programs on GGUF files: real processes, both ways of mixing runtimes, and what is said of
files that will not do.
"""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from openai import OpenAI

from hedge.common.model import bundled_folder
from tests.integration.conftest import BIN, ENVIRONMENT, Cloud, Run, StartCloud, hedge, one_line
from tools.to_gguf import convert, metadata_of, write_gguf

QUESTION = "What is 47 + 38?"
ASKED = ("--insecure", "--seed", "7", "--threads", "1", "--json", "--max-new-tokens", "60")


@pytest.fixture(scope="module")
def gguf_cloud(start_cloud: StartCloud, files: dict[str, Path]) -> Cloud:
    return start_cloud("--threads", "1", "--llm", str(files["llm"]))


def answers(*arguments: str) -> list[dict[str, object]]:
    done = hedge("generate", *ASKED, *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_both_sides_on_gguf_answer(gguf_cloud: Cloud, files: dict[str, Path]) -> None:
    (found,) = answers(
        "--slm",
        str(files["slm"]),
        "--cloud",
        gguf_cloud.address,
        "--temperature",
        "0",
        "--prompt",
        QUESTION,
    )
    assert str(found["text"]).endswith("Answer: 85")
    assert found["guarantee"] == "exact"
    assert found["stats"]["accepted"] > 5  # type: ignore[index]


@pytest.mark.parametrize("temperature", ["0", "1"])
def test_a_gguf_device_on_a_torch_cloud_gives_the_llm_its_own_tokens(
    temperature: str, cloud: Cloud, files: dict[str, Path], tmp_path: Path
) -> None:
    prompts = tmp_path / "p.jsonl"
    prompts.write_text(
        "".join(
            json.dumps({"prompt": text}) + "\n"
            for text in (QUESTION, "Tell me a tale.", "Sort: 4 1 3")
        )
    )
    options = ("--cloud", cloud.address, "--temperature", temperature, "--prompts", str(prompts))
    hybrid = answers("--slm", str(files["slm"]), *options)
    plain = answers("--system", "llm", *options)
    assert [found["token_ids"] for found in hybrid] == [found["token_ids"] for found in plain]


def test_the_openai_client_streams_from_gguf(gguf_cloud: Cloud, files: dict[str, Path]) -> None:
    command = [
        str(BIN / "hedge"),
        "serve",
        "--insecure",
        "--http",
        "127.0.0.1:0",
        "--slm",
        str(files["slm"]),
        "--threads",
        "1",
        "--cloud",
        gguf_cloud.address,
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as running:
        try:
            assert running.stderr
            where = (
                next(line for line in running.stderr if "listening on" in line)
                .rpartition(" ")[2]
                .strip()
            )
            client = OpenAI(base_url=f"http://{where}/v1", api_key="-")
            chunks = client.chat.completions.create(
                model="hedge",
                messages=[{"role": "user", "content": QUESTION}],
                temperature=0,
                stream=True,
            )
            assert "".join(
                chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices
            ).endswith("Answer: 85")
        finally:
            running.terminate()


def test_the_device_on_gguf_loads_neither_torch_nor_transformers(
    gguf_cloud: Cloud, files: dict[str, Path]
) -> None:
    program = f"""if True:
        import sys
        from hedge.edge_client.cli.main import main
        sys.argv = ["hedge", "generate", "--slm", {str(files["slm"])!r}, "--insecure",
                    "--cloud", {gguf_cloud.address!r}, "--temperature", "0", "--seed", "1",
                    "--threads", "1", "--prompt", {QUESTION!r}]
        try:
            main()
        except SystemExit as left:
            assert left.code == 0
        loaded = {{"torch", "transformers", "scipy"}} & set(sys.modules)
        assert not loaded, loaded
        assert "llama_cpp" in sys.modules
    """
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    assert "Answer: 85" in done.stdout


def test_evicted_sessions_are_fed_again(
    start_cloud: StartCloud, files: dict[str, Path], tmp_path: Path
) -> None:
    """A memory for little more than one session, and four devices at once: the answers are those of
    a roomy cloud.
    """
    prompts = tmp_path / "p.jsonl"
    prompts.write_text(json.dumps({"prompt": QUESTION}) + "\n")
    # Passes of a quarter of a second, so that the four meet.
    tight = start_cloud(
        "--threads",
        "1",
        "--llm",
        str(files["llm"]),
        "--kv-bytes",
        "1000000",
        "--http",
        "127.0.0.1:0",
        "--emulate",
        "0.25:0",
    )
    command = [
        str(BIN / "hedge"),
        "generate",
        *ASKED,
        "--slm",
        str(files["slm"]),
        "--cloud",
        tight.address,
        "--temperature",
        "0",
        "--prompts",
        str(prompts),
    ]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        for _ in range(4)
    ]
    for one in running:
        out, _ = one.communicate(timeout=120)
        assert one.returncode == 0
        assert json.loads(out)["text"].endswith("Answer: 85")
    with urllib.request.urlopen(f"http://{tight.http}/metrics", timeout=10) as answer:
        evicted = re.search(r"^hedge_cloud_evictions (\S+)", answer.read().decode(), re.MULTILINE)
    assert evicted
    assert float(evicted[1]) > 0


def test_the_doctor_knows_the_runtime(gguf_cloud: Cloud, files: dict[str, Path]) -> None:
    done = hedge(
        "doctor",
        "--insecure",
        "--json",
        "--slm",
        str(files["slm"]),
        "--threads",
        "1",
        "--cloud",
        gguf_cloud.address,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    findings = {found["what"]: found for found in map(json.loads, done.stdout.splitlines())}
    assert "llama.cpp (" in findings["its runtime"]["found"]
    assert "1 threads" in findings["its runtime"]["found"]
    assert "ms for 8 rows" in findings["its runtime"]["found"]


def test_the_doctor_survives_a_build_that_does_not(
    files: dict[str, Path], here: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In the probe's place a process dies of SIGSEGV, as a build for another processor does."""
    crash = tmp_path / "python"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crash.chmod(0o755)
    monkeypatch.setattr("hedge.evaluation.doctor.sys.executable", str(crash))
    done = here("doctor", "--insecure", "--slm", str(files["slm"]))
    assert done.returncode == 1
    assert "dies of SIGSEGV" in done.stdout
    assert "CMAKE_ARGS=-DGGML_NATIVE=OFF" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dtype", "bfloat16"], "--dtype bfloat16 is for model folders"),
        (["--device", "cuda"], "--device cuda is for model folders"),
        (["--context", "5000"], "context 5000 is more than the 1024"),
        (["--threads", "1000000000"], "1000000000 threads"),
        (["--gpu-layers", "-1"], "gpu-layers -1"),
    ],
)
def test_options_that_do_not_fit_a_gguf_are_named(
    arguments: list[str], words: str, files: dict[str, Path], here: Run
) -> None:
    asked = (
        "generate",
        "--system",
        "slm",
        "--seed",
        "1",
        "--prompt",
        "Hello",
        "--slm",
        str(files["slm"]),
    )
    one_line(here(*asked, *arguments), 2, words)


def test_a_vocabulary_that_does_not_fit_names_both(
    gguf_cloud: Cloud, files: dict[str, Path], tmp_path: Path, here: Run
) -> None:
    tokens = metadata_of(bundled_folder() / "slm")["tokenizer.ggml.tokens"]
    other = convert(
        bundled_folder() / "slm",
        tmp_path / "other.gguf",
        tokenizer__ggml__tokens=[*tokens[:-1], "another"],
        general__name="x",
    )
    done = here(
        "generate",
        "--insecure",
        "--seed",
        "1",
        "--prompt",
        "a",
        "--slm",
        str(other),
        "--cloud",
        gguf_cloud.address,
    )
    one_line(done, 1, "llm.gguf, 4096 ids", "other.gguf's", "would fit")


def test_a_cloud_of_no_model_is_one_line(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "mmproj.gguf", {"general.architecture": "clip"})
    done = hedge(
        "serve", "--insecure", "--listen", "127.0.0.1:0", "--llm", str(path), program="hedge-cloud"
    )
    one_line(done, 2, "vision projector")
