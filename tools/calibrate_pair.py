"""python -m tools.calibrate_pair: writes models/calibration.json (temperature 1) and
models/calibration-greedy.json.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from hedge.evaluation.processes import BIN, run_cloud
from hedge.evaluation.questions import FAMILIES, draw

MODELS = Path(__file__).parent.parent / "models"
PROMPTS = 256


def write_prompts(path: Path) -> None:
    """Questions of every family in turn, from the part that training may see."""
    rng = np.random.default_rng(7)
    names = list(FAMILIES)
    questions = [draw(names[i % len(names)], rng, held_out=False) for i in range(PROMPTS)]
    path.write_text(
        "".join(json.dumps({"prompt": question.text}) + "\n" for question in questions), "utf-8"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, run_cloud("--threads", "1") as address:
        write_prompts(prompts := Path(folder, "prompts.jsonl"))
        for name, temperature in (("calibration.json", "1"), ("calibration-greedy.json", "0")):
            command = [
                str(BIN / "hedge"),
                "calibrate",
                "--cloud",
                address,
                "--insecure",
                "--seed",
                "1",
                "--threads",
                "1",
            ]
            command += [
                "--prompts",
                str(prompts),
                "--out",
                str(MODELS / name),
                "--temperature",
                temperature,
            ]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
