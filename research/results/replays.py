"""python -m research.results.replays: hedge on recorded answers over devices and links, on virtual
time, as docs/results/replays.jsonl.
"""

from pathlib import Path
from typing import Any

import numpy as np

from hedge.evaluation.break_even import PairSample
from hedge.evaluation.profile import read_profile
from hedge.evaluation.record import Journal, read_journal
from hedge.evaluation.replay import Trace
from research.links import select_traces
from research.results.real_rows import CPU
from research.results.real_tables import PROFILES

RESULTS = Path(__file__).parents[2] / "docs" / "results"
ROUND_TRIPS = (0.0, 0.02, 0.1, 0.2)
# The recorded answers: folder, and how their tasks begin.
ANSWERS = {
    "real": ("real", ""),
    "bundled, questions": ("bundled", "questions"),
    "bundled, tales": ("bundled", "tales"),
}


def main() -> None:
    path = RESULTS / "replays.jsonl"
    path.unlink(missing_ok=True)
    journal = Journal(path, {"kind": "replays"}, resume=False)
    for label, (folder, kind) in ANSWERS.items():
        entries = read_journal(RESULTS / folder / "traces.jsonl", "traces")[1]
        mine = [
            entry | {"question": number}
            for number, entry in enumerate(entries)
            if entry["task"].startswith(kind)
        ]
        for temperature in sorted({entry["temperature"] for entry in mine}):
            traces = select_traces(mine, temperature)
            if label == "real":
                for row in savings(traces):
                    journal.append(
                        {"what": "savings", "answers": label, "temperature": temperature} | row
                    )
            accepted = float(np.mean([stays for trace in traces for stays in trace.accepted]))
            trips = {
                name: PairSample(traces, read_profile(name)).break_even()
                for name in (*PROFILES, CPU)
            }
            row = {
                "what": "break-even",
                "answers": label,
                "temperature": temperature,
                "accepted": accepted,
            }
            journal.append(row | {"count": len(traces)} | trips)


def savings(traces: list[Trace]) -> list[dict[str, Any]]:
    found = []
    for name in (*PROFILES, CPU):
        profile = read_profile(name)
        for seconds in ROUND_TRIPS:
            counts = PairSample(traces, profile).over(seconds)
            passes, steps, positions = counts.per_token()
            row = {
                "profile": name,
                "round_trip": seconds,
                "passes": passes,
                "positions": positions,
                "steps": steps,
            }
            found.append(
                row | {"joules": profile.energy(1, 0.0, 0.0) * steps, "speed": counts.speed}
            )
    return found


if __name__ == "__main__":
    main()
