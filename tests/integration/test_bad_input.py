"""What people get wrong, and what they are told: one line, a status, no traceback."""

import asyncio
import http.server
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import pytest

from hedge.common.model import bundled_folder
from tests.conftest import MakeFolder
from tests.integration.conftest import BIN, Cloud, Run, StartCloud, hedge, one_line

ASK = ("generate", "--insecure", "--seed", "1", "--prompt", "Hello")


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--temperature", "-1"], "-1"),
        (["--temperature", "nan"], "nan"),
        (["--temperature", "x"], "invalid float"),
        (["--top-p", "0"], "top-p 0"),
        (["--top-p", "2"], "top-p 2"),
        (["--top-k", "-3"], "top-k -3"),
        (["--threads", "0"], "0 threads"),
        (["--system", "nonsense"], "nonsense"),
        (["--slm", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--prompt", "  "], "empty"),
        (["--config", "/nowhere.toml"], "/nowhere.toml"),
        (["--unknown"], "--unknown"),
    ],
)
def test_bad_options_are_named_before_the_cloud_is_asked(
    arguments: list[str], words: str, here: Run
) -> None:
    one_line(here(*ASK, *arguments), 2, words)


CU = ("--system", "cu-hlm")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--k", "0", *CU], "k 0"),
        (["--k", "4097", "--threshold", "0.5", *CU], "k 4097"),
        (["--threshold", "nan"], "nan"),
        (["--bits", "99", *CU], "bits 99"),
        (
            ["--law-entries", "5000000000", "--system", "cu-hlm", "--verification", "split"],
            "probs-entries 5000000000",
        ),
        (["--k", "30"], "--k does not apply to verification coupled"),
        (["--max-in-flight", "65"], "max-in-flight 65"),
        (["--guarantee", "opportunistic", "--measure", "perturbation"], "looks at the drawn token"),
        (["--verify-rate", "2", "--policy", "random"], "verify-rate 2"),
        (["--skip-rate", "7"], "skip-rate 7"),
        (["--max-risk", "0"], "max-risk 0"),
        (["--max-new-tokens", "0"], "max-new-tokens 0"),
        (["--guarantee", "exact", *CU], "guarantee exact"),
        (["--calibration", "/nowhere.json"], "/nowhere.json"),
        (["--system", "gelato", "--gelato", "weight"], "gelato 'weight' is not OPTION=VALUE"),
        (["--system", "gelato", "--gelato", "weight=x"], "gelato weight 'x' is not a number"),
        (["--system", "gelato", "--gelato", "longest=0"], "gelato longest 0"),
        (
            ["--system", "gelato", "--gelato", "longest=1.5"],
            "gelato longest '1.5' is not a whole number",
        ),
        (["--policy", "gelato"], "which --system gelato sets"),
        (["--gelato", "weight=1"], "is for policy gelato, not survival"),
        (["--prefer", "money"], "--prefer"),
        (
            ["--prefer", "cloud", "--threshold", "0.2"],
            "--prefer cloud is for policy survival, not adaptive",
        ),
        (["--prompt", "word " * 2000], "context of 1024"),
    ],
)
def test_bad_generation_options_are_named(
    arguments: list[str], words: str, cloud: Cloud, here: Run
) -> None:
    one_line(here(*ASK, "--cloud", cloud.address, *arguments), 2, words)


def test_one_bad_prompt_of_many_is_reported_and_the_others_are_answered(
    cloud: Cloud, here: Run, tmp_path: Path
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"prompt": "Hello"}\n{"prompt": "' + "word " * 2000 + '"}\n{"prompt": "Goodbye"}\n'
    )
    done = here(
        "generate",
        "--cloud",
        cloud.address,
        *f"--insecure --prompts {path} --json --seed 1 --temperature 0".split(),
    )
    first, second, third = done.stdout.splitlines()
    assert '"error"' in second
    assert '"error"' not in first + third
    one_line(done, 1, "1 of 3 prompts failed")


def test_a_prompt_that_fills_the_context_to_the_last_token_is_answered(
    cloud: Cloud, here: Run
) -> None:
    """The template adds 4 tokens to the words; 1,023 leave room for one."""
    fits = here(
        *ASK,
        "--prompt",
        "a" + " river" * 1018,
        "--cloud",
        cloud.address,
        "--system",
        "llm",
        "--json",
    )
    assert fits.returncode == 0, fits.stderr
    assert '"tokens": 1,' in fits.stdout
    over = here(
        *ASK,
        "--prompt",
        "a" + " river" * 1019,
        "--cloud",
        cloud.address,
        "--system",
        "llm",
        "--json",
    )
    one_line(over, 2, "1024")


def test_an_unreachable_cloud(free_port: int, here: Run) -> None:
    one_line(here(*ASK, "--cloud", f"127.0.0.1:{free_port}"), 1, f"127.0.0.1:{free_port}")


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999", "127.0.0.1:0"])
def test_an_address_that_is_none(address: str, here: Run) -> None:
    one_line(here(*ASK, "--cloud", address), 2, address)


def test_insecure_has_to_be_said(here: Run) -> None:
    one_line(here("generate", "--prompt", "Hello"), 2, "--insecure")
    one_line(here("serve", program="hedge-cloud"), 2, "--insecure")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Writes no log: stderr is what is looked at."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web_server() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), QuietHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_web_server_is_not_a_cloud(web_server: str, here: Run) -> None:
    one_line(here(*ASK, "--cloud", web_server), 1, web_server)


def test_another_grpc_server_is_not_a_cloud(here: Run) -> None:
    async def ask() -> None:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        done = await asyncio.to_thread(here, *ASK, "--cloud", f"127.0.0.1:{port}")
        await server.stop(None)
        one_line(done, 1, "not a Hedge cloud")

    asyncio.run(ask())


def test_a_server_with_another_tokenizer_is_refused_with_both_named(
    start_cloud: StartCloud, make_folder: MakeFolder, here: Run
) -> None:
    server = start_cloud("--llm", str(make_folder()))
    done = here(*ASK, "--cloud", server.address)
    one_line(done, 1, "tokenizer", "bundled slm")


def test_a_calibration_of_another_pair_is_an_error(start_cloud: StartCloud, here: Run) -> None:
    """The bundled SLM as its own cloud: same tokenizer, another LLM."""
    server = start_cloud("--llm", str(bundled_folder() / "slm"), "--threads", "1")
    calibration = bundled_folder() / "calibration.json"
    done = here(*ASK, "--cloud", server.address, "--calibration", str(calibration))
    one_line(done, 1, "calibration", "LLM")
    done = here(
        *ASK, "--cloud", server.address, "--system", "gelato", "--calibration", str(calibration)
    )
    one_line(done, 1, "calibration", "LLM")


@pytest.mark.process
def test_a_broken_model_folder_stops_the_server_with_one_line(tmp_path: Path) -> None:
    shutil.copytree(bundled_folder() / "slm", tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"\0" * 100)
    one_line(
        hedge("serve", "--insecure", "--llm", str(tmp_path / "m"), program="hedge-cloud"),
        2,
        "safetensors",
    )


@pytest.mark.process
def test_a_port_in_use(cloud: Cloud) -> None:
    """Said before a model is loaded: there is none."""
    for arguments, program in (
        (
            (
                "serve",
                "--insecure",
                "--cloud",
                cloud.address,
                "--http",
                cloud.address,
                "--slm",
                "/nowhere",
            ),
            "hedge",
        ),
        (("serve", "--insecure", "--listen", cloud.address, "--llm", "/nowhere"), "hedge-cloud"),
        (
            (
                "serve",
                "--insecure",
                "--listen",
                "127.0.0.1:0",
                "--http",
                cloud.address,
                "--llm",
                "/nowhere",
            ),
            "hedge-cloud",
        ),
    ):
        one_line(
            hedge(*arguments, program=program), 1, f"cannot listen on {cloud.address}", "in use"
        )
    for where in (("--listen", "a..b:1"), ("--listen", "127.0.0.1:0", "--http", "a..b:1")):
        nowhere = hedge("serve", "--insecure", *where, "--threads", "1", program="hedge-cloud")
        assert (nowhere.returncode, "cannot listen on a..b:1" in nowhere.stderr) == (1, True), (
            nowhere.stderr
        )


def test_what_is_not_installed_is_said_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, here: Run
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.chrf", None)
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "reference": "b"}\n')
    one_line(
        here("evaluate", "--insecure", "--prompts", str(tmp_path / "p.jsonl"), "--seed", "1"),
        1,
        "hedge-hlm[bench]",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("simulate", "gelato", "--bandwidth", "0"), "bandwidth 0"),
        (("simulate", "gelato", "--t-llm", "nan"), "t-llm nan"),
        (("simulate", "gelato", "--decay", "-1"), "decay -1"),
        (("simulate", "--resume"), "give its --seed"),
        (("evaluate", "--question-seed", "-1", "--insecure"), "question-seed -1"),
        (("link", "--listen", "127.0.0.1:0", "--to", "127.0.0.1:1", "--seed", "-1"), "seed -1"),
        (("wireless", "send", "--text", "a", "--snr", "nan"), "SNR nan"),
        (("wireless", "send", "--text", "", "--snr", "5"), "the text is empty"),
        (("wireless", "send", "--text", "word " * 200, "--snr", "5"), "a packet at most 128"),
        (("wireless", "send", "--text", "a", "--snr", "5", "--qam", "8"), "qam 8"),
        (
            ("wireless", "send", "--text", "a", "--snr", "5", "--mlm", "/nowhere"),
            "/nowhere is not a folder",
        ),
        (("wireless", "study", "--packets", "0"), "packets 0"),
        (("wireless", "study", "--text", "/nowhere"), "/nowhere"),
    ],
)
def test_what_cannot_be_simulated_is_named(
    arguments: tuple[str, ...], words: str, tmp_path: Path, here: Run
) -> None:
    out = (
        ("--out", str(tmp_path / "out"))
        if arguments[0] == "simulate" or "study" in arguments
        else ()
    )
    one_line(here(*arguments, *out), 2, words)


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")


@needs_full
def test_a_full_disk_behind_stdout_is_said() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [BIN / "hedge", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    one_line(done, 1, "No space left")


@needs_full
def test_a_full_disk_is_said(cloud: Cloud, tmp_path: Path, here: Run) -> None:
    (tmp_path / "answers-slm.jsonl").symlink_to("/dev/full")
    done = here(
        "evaluate",
        "--cloud",
        cloud.address,
        *f"--insecure --systems slm --questions 2 --seed 1 --answers {tmp_path} --json".split(),
    )
    one_line(done, 1, "No space left")
