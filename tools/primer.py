"""python -m tools.primer: writes models/primer.json, ids that the coding of ids starts from on both
sides.
"""

import json

import numpy as np

from hedge.common.loading import load
from hedge.common.model import BUNDLED, PRIMER, bundled_folder
from hedge.evaluation.questions import FAMILIES, draw

QUESTIONS = 80


def main() -> None:
    """Worked answers of every family in turn, from the part that training may see."""
    lm = load(BUNDLED, "slm")
    rng = np.random.default_rng(11)
    names = list(FAMILIES)
    ids = list[int]()
    for number in range(QUESTIONS):
        question = draw(names[number % len(names)], rng, held_out=False)
        ids += lm.encode_chat([{"role": "user", "content": question.text}])
        ids += [*lm.encode_text(question.worked), *lm.end_ids[:1]]
    content = json.dumps({"tokenizer": lm.tokenizer_fingerprint, "ids": ids}, separators=(",", ":"))
    (bundled_folder() / PRIMER).write_text(content + "\n", "utf-8")


if __name__ == "__main__":
    main()
