"""python -m research.results.bundled: what `hedge` does with the bundled pair, one line an answer in
docs/results/bundled.

The rows are like those of `research.results.real`: worked questions, and tales, of which the pair
knows little.
"""

import subprocess
import tempfile
from pathlib import Path

from hedge.common.model import BUNDLED, load
from hedge.common.sampling import Warp
from hedge.evaluation.break_even import traced
from hedge.evaluation.processes import BIN
from hedge.evaluation.record import Journal, answers_of, read_journal
from research.results.real import SEED, kept
from research.results.real_tables import HEDGE

ROOT = Path(__file__).parents[2]
OUT = ROOT / "docs" / "results" / "bundled"
TALES = ROOT / "research" / "results" / "tales.jsonl"
KINDS = {
    "questions": ("--questions", "100"),
    "tales": ("--questions", "0", "--prompts", str(TALES)),
}
TEMPERATURES = ("0", "1")


def main() -> None:
    for path in OUT.glob("*.jsonl"):
        path.unlink()
    slm = load(BUNDLED, "slm")
    traces = Journal(
        OUT / "traces.jsonl", {"kind": "traces", "slm": slm.fingerprint, "seed": SEED}, resume=False
    )
    for kind, which in KINDS.items():
        for temperature in TEMPERATURES:
            with tempfile.TemporaryDirectory() as folder:
                command = [
                    str(BIN / "hedge"),
                    "simulate",
                    "--out",
                    folder,
                    "--seed",
                    str(SEED),
                    "--temperature",
                    temperature,
                ]
                command += [
                    "--tau-slm",
                    "1",
                    "--tau-llm",
                    "1",
                    "--max-new-tokens",
                    "400",
                    *which,
                    "--systems",
                    "llm",
                    HEDGE,
                ]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                journal = None
                for path in sorted(Path(folder).glob("answers-*.jsonl")):
                    header, entries = read_journal(path, "answers")
                    journal = journal or Journal(
                        OUT / f"{kind}-{temperature}.jsonl",
                        {
                            "kind": "real",
                            "slm": header["slm"],
                            "llm": header["llm"],
                            "vocab_size": slm.vocab_size,
                        },
                        resume=False,
                    )
                    for answer in sorted(answers_of(path, entries), key=lambda answer: answer.task):
                        journal.append(
                            {"run": header["run"]} | kept(answer, slm.vocab_size, whole=False)
                        )
                        if str(header["run"]).startswith("llm "):
                            where = {
                                "task": kind,
                                "temperature": float(temperature),
                                "question": answer.task,
                            }
                            found = traced(
                                slm,
                                answer.prompt_ids,
                                answer.token_ids,
                                Warp(float(temperature)),
                                SEED,
                            )
                            traces.append(where | found)


if __name__ == "__main__":
    main()
