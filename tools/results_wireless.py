"""python -m tools.results_wireless [PACKETS]: the table of joint token masking and detection in docs/results.md."""

import json
import subprocess
import sys
from pathlib import Path

from evaluation.processes import BIN
from tools.results_tables import table, write
from wireless.study import ADAPTIVE

ROOT = Path(__file__).parent.parent
# Kept: a packet takes half a minute.
OUT = ROOT / "docs" / "results" / "wireless"


def main() -> None:
    count = sys.argv[1] if len(sys.argv) > 1 else "200"
    command = [str(BIN / "hedge"), "wireless", "study", "--out", str(OUT), "--packets", count, "--json"]
    sys.stderr.write(f"{' '.join(command[1:])}\n")
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = [json.loads(line) for line in said.splitlines()]
    (ROOT / "docs" / "results" / "wireless.jsonl").write_text(said)
    lines = []
    for row in rows:
        gains = [row[f"gain of {rule}"] for rule in ADAPTIVE]
        lines.append([
            f"{row['snr_db']:g}", row["system"], f"{row['accuracy']:.3f}", f"{row['chrf']:.1f}", f"{row['masked']:.2f}",
            f"{row['position_bits']:.0f}", f"{row['uses']:.0f}",
            *(f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" for mean, low, high in gains),
        ])  # fmt: skip
    head = (
        "SNR, dB", "system", "token accuracy", "chrF", "left out", "position bits", "symbols",
        *(f"gain of {rule} (95 %)" for rule in ADAPTIVE),
    )  # fmt: skip
    write(ROOT / "docs" / "results.md", {"wireless": f"{rows[0]['packets']} packets.\n\n" + table(head, lines)})


if __name__ == "__main__":
    main()
