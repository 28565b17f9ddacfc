"""python -m tools.write_prompts N FILE: training-side questions as JSONL prompts, to calibrate with."""

import json
import sys
from pathlib import Path

import numpy as np

from evaluation.questions import FAMILIES, draw


def main() -> None:
    count, path = int(sys.argv[1]), Path(sys.argv[2])
    rng = np.random.default_rng(7)
    names = list(FAMILIES)
    questions = [draw(names[i % len(names)], rng, held_out=False) for i in range(count)]
    lines = [json.dumps({"prompt": q.text, "reference": q.worked}) for q in questions]
    path.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
