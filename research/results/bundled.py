"""python -m research.results.bundled: `hedge` on the bundled pair, in docs/results/bundled.

A line an answer, as of the real pair: worked questions, and tales, of which the pair knows little.
"""

import tempfile

from hedge.common.model import BUNDLED
from hedge.common.sampling import Warp
from hedge.evaluation.break_even import trace_answer
from hedge.evaluation.record import Journal
from hedge.evaluation.tasks import read_judged_tasks
from research import simulate
from research.harness import Answering, ModelPair, find_missing
from research.results.pages import RESULTS, ROOT
from research.results.real_rows import HEDGE, SEED, condense

OUT = RESULTS / "bundled"
KINDS = {
    "questions": ("--questions", "100"),
    "tales": ("--questions", "0", "--prompts", str(ROOT / "research" / "results" / "tales.jsonl")),
}
TEMPERATURES = ("0", "1")


def answer(kind: str, temperature: str, traces: Journal) -> None:
    words = f"--seed {SEED} --temperature {temperature} --max-new-tokens 400".split()
    options = simulate.parse_options(
        [*words, *KINDS[kind], "--out", tempfile.gettempdir(), "--systems", "llm", HEDGE]
    )
    runs, header = simulate.plan(options)
    pair = simulate.make_pair(options)
    slm, _ = pair.load()
    jobs = find_missing(runs, read_judged_tasks(options), ())
    found = list(Answering(options.jobs).run(pair, runs, jobs))
    head = {name: header[name] for name in ("slm", "llm", "vocab_size")}
    journal = Journal(OUT / f"{kind}-{temperature}.jsonl", {"kind": "real"} | head, resume=False)
    for run, one in sorted(found, key=lambda pair: (pair[0], pair[1].task)):
        journal.append({"run": run} | condense(one, slm.vocab_size, with_ids=False))
        if run.startswith("llm "):
            where = {"task": kind, "temperature": float(temperature), "question": one.task}
            warp = Warp(float(temperature))
            traces.append(where | trace_answer(slm, one.prompt_ids, one.token_ids, warp, SEED))


def main() -> None:
    for path in OUT.glob("*.jsonl"):
        path.unlink()
    slm, _ = ModelPair(BUNDLED, BUNDLED).load()
    header = {"kind": "traces", "slm": slm.fingerprint, "seed": SEED}
    traces = Journal(OUT / "traces.jsonl", header, resume=False)
    for kind in KINDS:
        for temperature in TEMPERATURES:
            answer(kind, temperature, traces)


if __name__ == "__main__":
    main()
