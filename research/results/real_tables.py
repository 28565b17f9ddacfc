"""Tables of the real pair, from the rows of docs/results/real that `research.results.real` made."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hedge.common.codec import paper_bits
from hedge.evaluation.profile import read_profile
from hedge.evaluation.quality import interval
from hedge.evaluation.record import read_journal
from research.figures import short
from research.results.paper_tables import quantile, table

Parts = dict[str, dict[str, Callable[[], str]]]
Entries = Sequence[dict[str, Any]]
TASKS = ("gsm8k", "humaneval")
TEMPERATURES = ("0", "0.7", "1")
# Both models on one thread of a CPU each, as `python -m tools.bench_rows` measured them.
CPU = "cpu"
MEASURED = read_profile(CPU)
HEDGE = "hedge:max-in-flight=1,threshold=0.4"
# Skips about as much as the paper says on the real pair, as "margin, 0.76" does on the bundled one.
PAPER_SHARE = quantile("margin", 0.58)
# The entries that CU-HLM keeps, and what it is compared with.
KEPT = 30
REFERENCE = "hlm"
SNR_DB = -10.0
BANDWIDTH_HZ = 1e6


@dataclass(frozen=True)
class Runs:
    """The answers of every run to one task at one temperature, each by its number."""

    vocab_size: int
    answers: dict[str, dict[int, dict[str, Any]]]

    @classmethod
    def read(cls, folder: Path, task: str, temperature: str) -> "Runs | None":
        path = folder / f"{task}-{temperature}.jsonl"
        if not path.exists():
            return None
        header, entries = read_journal(path, "real")
        found: dict[str, dict[int, dict[str, Any]]] = {}
        for entry in entries:
            found.setdefault(entry["run"].rpartition(" #")[0], {})[entry["task"]] = entry
        return cls(int(header["vocab_size"]), found)

    def whole(self, name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """A run's answers beside the LLM's to the same questions."""
        theirs = self.answers["llm"]
        return [
            (entry, theirs[number])
            for number, entry in sorted(self.answers.get(name, {}).items())
            if number in theirs
        ]


def summed(
    pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], vocab_size: int
) -> dict[str, float]:
    """What a run comes to: shares, and what is per token."""
    mine = [own for own, _ in pairs]
    theirs = [llm for _, llm in pairs]
    tokens = sum(entry["tokens"] for entry in mine)
    skipped = sum(entry["skipped"] for entry in mine)
    right = np.array([[own["correct"], llm["correct"]] for own, llm in pairs], dtype=float)
    with np.errstate(invalid="ignore"):
        low, high = interval(right[:, 0], right[:, 1])
    audited = sum(entry["audited"] for entry in mine)
    paper = sum(entry["paper_bytes"] for entry in mine)
    whole = paper_bits(vocab_size, vocab_size) / 8
    seconds = sum(clock(entry) for entry in mine)
    return {
        "answers": len(mine),
        "tokens": tokens,
        "skipped": skipped / tokens,
        "accuracy": right[:, 0].mean(),
        "relative": right[:, 0].sum() / right[:, 1].sum() if right[:, 1].any() else float("nan"),
        "low": low,
        "high": high,
        "risk": sum(entry["risk"] for entry in mine) / audited if audited else float("nan"),
        "paper_bytes": paper / tokens,
        "compression": 1 - paper / max(1, tokens - skipped) / whole,
        "up": sum(entry["messages"] for entry in mine) / tokens,
        "passes": sum(entry["rounds"] for entry in mine) / tokens,
        "positions": sum(entry["positions"] for entry in mine) / tokens,
        "steps": sum(entry["steps"] for entry in mine) / tokens,
        "near_ties": sum(entry["near_ties"] for entry in mine),
        "same": float(np.mean([own["digest"] == llm["digest"] for own, llm in pairs])),
        "tokens_per_s": tokens / seconds,
        "tokens_per_s_flat": tokens / sum(clock(entry, flat=True) for entry in mine),
        "llm_tokens": sum(entry["tokens"] for entry in theirs),
    }


def clock(
    entry: dict[str, Any],
    snr_db: float = SNR_DB,
    bandwidth_hz: float = BANDWIDTH_HZ,
    *,
    flat: bool = False,
) -> float:
    """Seconds of an answer on the paper's channel: tau_SLM + bits / C + tau_LLM, without fading.

    `flat` as the paper has it: a pass takes as long as one of one position, however many it has.
    """
    capacity = bandwidth_hz * math.log2(1 + 10 ** (snr_db / 10))
    positions = entry["rounds"] if flat else entry["positions"]
    passes_s = entry["rounds"] * MEASURED.llm_s + positions * MEASURED.llm_position_s
    return float(entry["steps"] * MEASURED.slm_s + 8 * entry["paper_bytes"] / capacity + passes_s)


def systems(folder: Path, temperature: str) -> str:
    """Every system at one temperature: both tasks' accuracy, and what both took together."""
    runs = {task: found for task in TASKS if (found := Runs.read(folder, task, temperature))}
    lines = []
    for name in sorted({name for one in runs.values() for name in one.answers}, key=order):
        each = {task: one.whole(name) for task, one in runs.items()}
        every = summed(
            [pair for pairs in each.values() for pair in pairs],
            next(iter(runs.values())).vocab_size,
        )
        right = [percent(summed(pairs, 2)["accuracy"]) if pairs else "-" for pairs in each.values()]
        lines.append(
            [
                short(f"{name} #1"),
                " + ".join(str(len(pairs)) for pairs in each.values()),
                f"{every['skipped']:.1%}",
                *right,
                over(every["relative"]) + between(every["low"], every["high"]),
                "-" if np.isnan(every["risk"]) else f"{every['risk']:.2%}",
                f"{every['up']:.1f}",
                f"{every['passes']:.2f}",
            ]
        )
    head = ("system", "n", "skipped", *runs, "accuracy over llm's", "risk", "up B", "passes")
    return table(head, lines)


CHANNELS = ((-10.0, 1e6), (0.0, 1e6), (10.0, 1e6), (0.0, 10e6))


def speeds(folder: Path, temperature: str) -> str:
    """Tokens/s of every system on the paper's channel, and how many times hlm's."""
    runs = [run for task in TASKS if (run := Runs.read(folder, task, temperature))]
    names = sorted({name for one in runs for name in one.answers}, key=order)
    speed = {
        (name, channel): sum(own["tokens"] for one in runs for own, _ in one.whole(name))
        / sum(clock(own, *channel) for one in runs for own, _ in one.whole(name))
        for name in names
        for channel in CHANNELS
    }
    lines = [
        [
            short(f"{name} #1"),
            str(sum(len(one.whole(name)) for one in runs)),
            *(
                f"{speed[name, channel]:.3g} ({speed[name, channel] / speed[REFERENCE, channel]:,.3g}x)"
                for channel in CHANNELS
            ),
        ]
        for name in names
    ]
    return table(
        ("tokens/s (over hlm)", "n", *(f"{snr:g} dB, {hz / 1e6:g} MHz" for snr, hz in CHANNELS)),
        lines,
    )


def order(name: str) -> tuple[int, str]:
    """The LLM and the SLM first, then what is exact, then what is not."""
    leading = ("llm", "slm", "hlm", HEDGE, "gelato", "rand-hlm", "u-hlm", "cu-hlm")
    return (leading.index(name) if name in leading else len(leading), name)


def between(low: float, high: float) -> str:
    """An interval; nothing where resampling gives none: too few answers, or no question that only
    one of the two has right.
    """
    return "" if np.isnan(low) or np.isnan(high) or low == high else f" ({low:.0%} to {high:.0%})"


def over(ratio: float) -> str:
    """A share of what the LLM has; none where it has nothing."""
    return "-" if np.isnan(ratio) else f"{ratio:.1%}"


def percent(value: float) -> str:
    return f"{value:.0%}"


def measures(folder: Path) -> str:
    """Fits and areas of the five measures and of the noised margin on the same answers, the mean
    over both tasks' tokens.
    """
    header, entries = read_journal(folder / "measures.jsonl", "measures")
    studied = int(header["studied"])
    lines = []
    for name in entries[0]["measures"] if entries else ():
        cells = []
        for temperature in TEMPERATURES:
            mine = [entry for entry in entries if entry["temperature"] == float(temperature)]
            weights = [entry["tokens"] for entry in mine]
            cells += [weighted(mine, weights, name, key) for key in ("r2_beta", "auc")]
        lines.append([name, *cells])
    cells = []
    for temperature in TEMPERATURES:
        mine = [entry for entry in entries if entry["temperature"] == float(temperature)]
        areas = [margin_auc(folder, entry["task"], entry["temperature"], studied) for entry in mine]
        cells += [
            "-",
            f"{np.average(areas, weights=[entry['tokens'] for entry in mine]):.3f}"
            if mine
            else "-",
        ]
    lines.append(["noised margin of `hedge`", *cells])
    head = ("measure", *(f"T {t}: {what}" for t in TEMPERATURES for what in ("R^2", "AUC")))
    return table(head, lines)


def weighted(entries: Entries, weights: Sequence[int], name: str, key: str) -> str:
    if not entries:
        return "-"
    return f"{np.average([entry['measures'][name][key] for entry in entries], weights=weights):.3f}"


def margin_auc(folder: Path, task: str, temperature: float, studied: int) -> float:
    """Of the margin by which the shared noise decided a draft, for drafts that are not the LLM's
    token; first answers.
    """
    from research.study import auc

    every = read_journal(folder / "traces.jsonl", "traces")[1]
    mine = [
        entry for entry in every if (entry["task"], entry["temperature"]) == (task, temperature)
    ]
    first = sorted(mine, key=lambda entry: int(entry["question"]))[:studied]
    margins = np.concatenate([np.asarray(entry["margin"]) for entry in first])
    return auc(-margins, 1 - np.concatenate([np.asarray(entry["accepted"]) for entry in first]))


PROFILES = ("phone", "laptop")
# Of a million positions of the LLM: a price to compare by, about that of a 70 B model in the cloud.
EUR = 0.60


def savings(rows: Entries) -> str:
    """hedge on the recorded answers over emulated devices and links, against the LLM's stream; a
    token each.
    """
    lines = [
        [
            f"{row['temperature']:g}",
            row["profile"],
            f"{1e3 * row['round_trip']:.0f} ms",
            *(f"{row[key]:.2f}" for key in ("passes", "positions", "steps")),
            f"{row['joules']:.3f}",
            f"{EUR * row['positions']:.2f}",
            f"{row['speed']:.2f}",
        ]
        for row in rows
        if row["what"] == "savings" and row["profile"] in PROFILES and row["round_trip"]
    ]
    return table(
        (
            "T",
            "device",
            "round trip",
            "passes",
            "positions",
            "SLM steps",
            "J",
            "EUR/M",
            "speed over llm",
        ),
        lines,
    )


def break_evens(rows: Entries) -> str:
    """The round trip below which hedge is faster than the LLM's stream, by answers and device."""
    lines = [
        [
            row["answers"],
            f"{row['temperature']:g}",
            f"{row['count']}",
            f"{row['accepted']:.1%}",
            *(
                "never" if row[name] is None else f"{1e3 * row[name]:.0f} ms"
                for name in (*PROFILES, CPU)
            ),
        ]
        for row in rows
        if row["what"] == "break-even"
    ]
    return table(("answers", "T", "n", "drafts accepted", *PROFILES, CPU), lines)


def agreement(results: Path) -> list[tuple[str, str, int, int, int]]:
    """By engine of the cloud: temperatures, how many answers of hedge are llm's token for token, of
    how many, near ties.
    """
    found = []
    rows = [
        row
        for name in ("exact", "exact-gguf")
        for row in read_journal(results / f"{name}.jsonl", "exact")[1]
    ]
    for dtype, what in (
        ("bfloat16", "torch, bfloat16, reproducible"),
        ("float32", "torch, float32, plain"),
        ("Q4_K_M", "llama.cpp, Q4_K_M, reproducible"),
    ):
        found.append(_agree(what, [row for row in rows if row["dtype"] == dtype], "question"))
    found.append(
        _agree("vLLM, bfloat16", read_journal(results / "vllm.jsonl", "bench-vllm")[1], "question")
    )
    live = [
        row | {"system": name, "temperature": 0.0}
        for name in ("llm", "hedge")
        for row in read_journal(results / "gsm8k" / f"answers-{name}.jsonl", "answers")[1]
    ]
    found.append(_agree("llama.cpp, Q4_K_M, one device", live, "task"))
    for temperature in TEMPERATURES:
        batched = [
            entry
            | {
                "system": name,
                "temperature": float(temperature),
                "number": (task, number),
                "token_ids": entry["digest"],
            }
            for task in TASKS
            if (runs := Runs.read(results / "real", task, temperature))
            for name, run in (("llm", "llm"), ("hedge", HEDGE))
            for number, entry in runs.answers.get(run, {}).items()
        ]
        if any(row["system"] == "hedge" for row in batched):
            found.append(_agree("llama.cpp, Q4_K_M, many at once", batched, "number"))
    return found


def _agree(what: str, rows: Entries, key: str) -> tuple[str, str, int, int, int]:
    llm = {
        (row["temperature"], row[key]): row["token_ids"] for row in rows if row["system"] == "llm"
    }
    mine = [
        row for row in rows if row["system"] == "hedge" and (row["temperature"], row[key]) in llm
    ]
    same = sum(row["token_ids"] == llm[row["temperature"], row[key]] for row in mine)
    temperatures = " and ".join(
        f"{value:g}" for value in sorted({row["temperature"] for row in mine})
    )
    return what, temperatures, same, len(mine), sum(row.get("near_ties", 0) for row in mine)


def exactness(results: Path) -> str:
    lines = [
        [
            what,
            at,
            f"{same} of {total}",
            "-" if what.endswith("reproducible") else f"{ties / total:.1f}",
        ]
        for what, at, same, total, ties in agreement(results)
    ]
    return table(("LLM in the cloud", "T", "answers that are llm's", "near ties an answer"), lines)


def claims(folder: Path, page: Path) -> str:
    """The abstract of the paper beside both pairs at temperature 0: cu-hlm as published, and gated
    by margin.
    """
    bundled = {name: headline(page, name) for name in ("cu-hlm", "cu-hlm:margin,skip 0.76")}
    runs = {task: found for task in TASKS if (found := Runs.read(folder, task, "0"))}
    vocab_size = next(iter(runs.values())).vocab_size

    def real(name: str) -> dict[str, float]:
        return summed([pair for one in runs.values() for pair in one.whole(name)], vocab_size)

    hlm = real(REFERENCE)["tokens_per_s"]
    own = {"published": real("cu-hlm"), "margin": real(PAPER_SHARE)}
    columns = {
        name: (one["skipped"], one["compression"], one["relative"], one["tokens_per_s"] / hlm)
        for name, one in own.items()
    }
    flat = [f"{one['tokens_per_s_flat'] / hlm:.0f}x" for one in own.values()]
    lines = [
        [
            "transmissions skipped",
            "74.8%",
            *(b[0] for b in bundled.values()),
            *(f"{c[0]:.1%}" for c in columns.values()),
        ],
        [
            "vocabulary not sent",
            "97.4%",
            *(b[1] for b in bundled.values()),
            *(f"{c[1]:.2%}" for c in columns.values()),
        ],
        [
            "accuracy over llm's",
            "97.4%",
            *(b[2] for b in bundled.values()),
            *(over(c[2]) for c in columns.values()),
        ],
        [
            "throughput over hlm's",
            "206x",
            *(b[3] for b in bundled.values()),
            *(f"{c[3]:.0f}x" for c in columns.values()),
        ],
    ]
    streams = [over_hlm(_row(page, "llm", 6))] * 2 + [
        f"{real('llm')['tokens_per_s'] / hlm:.0f}x"
    ] * 2
    lines.append(["the same, if every pass takes 52 ms", "-", "-", "-", *flat])
    lines.append(["throughput of `llm` over hlm's", "-", *streams])
    lines.append(
        ["answers", "", "1000", "1000", *(f"{one['answers']:.0f}" for one in own.values())]
    )
    head = ("cu-hlm", "paper", "bundled", "bundled, margin 0.76", "real", "real, margin 0.58")
    return table(head, lines)


def headline(page: Path, name: str) -> tuple[str, str, str, str]:
    """Of the bundled pair, as its own tables on the page have it: skipped, not sent, accuracy, over
    hlm at -10 dB.
    """
    system, speed = (_row(page, name, columns) for columns in (8, 6))
    sent = 1 - paper_bits(32000, KEPT) / paper_bits(32000, 32000)
    return system[2], f"{sent:.2%}", system[4].split(" ")[0], over_hlm(speed)


def _row(page: Path, name: str, columns: int) -> list[str]:
    """The first row of that name and width; the tables of temperature 0 come first."""
    lines = page.read_text("utf-8").partition("<!-- begin headline -->")[2].splitlines()
    rows = ([cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines)
    return next(row for row in rows if row[0] == name and len(row) == columns)


def over_hlm(speed: list[str]) -> str:
    return speed[1].partition("(")[2].strip(")")


def parts(folder: Path) -> Parts:
    page = folder.parent / "paper.md"
    exact: dict[str, Callable[[], str]] = {"exactness": partial(exactness, folder.parent)}
    found: Parts = {
        "docs/results/paper.md": {},
        "docs/results/hedge.md": {},
        "docs/results/exactness.md": exact,
    }
    found["docs/results/hedge.md"]["predicted"] = partial(predicted, folder.parent)
    found["docs/results/hedge.md"]["first"] = partial(first, folder.parent)
    for temperature in TEMPERATURES:
        if any((folder / f"{task}-{temperature}.jsonl").exists() for task in TASKS):
            found["docs/results/paper.md"][f"real {temperature}"] = partial(
                systems, folder, temperature
            )
    if (folder / "gsm8k-0.jsonl").exists():
        found["docs/results/paper.md"] |= {
            "claims": partial(claims, folder, page),
            "real speeds": partial(speeds, folder, "0"),
        }
    if (folder / "measures.jsonl").exists():
        found["docs/results/paper.md"]["real measures"] = partial(measures, folder)
    rows = read_journal(folder.parent / "replays.jsonl", "replays")[1]
    found["docs/results/hedge.md"] |= {
        "savings": partial(savings, rows),
        "break-even": partial(break_evens, rows),
    }
    return found


def predicted(results: Path) -> str:
    """What was expected of a link beside what a run then measured."""
    lines = []
    for row in read_journal(results / "break-even.jsonl", "break-even")[1]:
        cells = [
            f"{row['expected'][key]:.{digits}f} / {row['measured'][key]:.{digits}f}"
            for key, digits in PREDICTED.items()
        ]
        offs = [f"{row[f'{key}_off']:+.0%}" for key in PREDICTED]
        link = f"{1e3 * row['round_trip']:.0f} ms"
        lines.append(
            [
                row["pair"],
                f"{row['temperature']:g}",
                link,
                *(x for pair in zip(cells, offs, strict=True) for x in pair),
            ]
        )
    return table(("pair", "T", "link", "tokens/s", "off", "llm's", "off", "passes", "off"), lines)


PREDICTED = {"tokens_per_s": 1, "llm_tokens_per_s": 1, "passes": 3}


# A pair's rows, and what they were asked.
SHOWN = (
    ("bundled: worked questions", "bundled", "questions"),
    ("bundled: tales, its bad case", "bundled", "tales"),
    ("Qwen2.5-Coder: GSM8K", "real", "gsm8k"),
    ("Qwen2.5-Coder: HumanEval", "real", "humaneval"),
)


def first(results: Path) -> str:
    """Of an answer at temperature 0, a token: passes, positions, bytes, the median and the worst
    tenth; how many are llm's.
    """
    lines = []
    for label, folder, task in SHOWN:
        runs = Runs.read(results / folder, task, "0")
        if runs is None or not (pairs := runs.whole(HEDGE)):
            continue
        cells = []
        for key in ("rounds", "positions", "messages"):
            values = [own[key] / own["tokens"] for own, _ in pairs]
            cells.append(f"{np.median(values):.2f} ({np.quantile(values, 0.9):.2f})")
        same = sum(own["digest"] == llm["digest"] for own, llm in pairs)
        lines.append([label, *cells, f"{same} of {len(pairs)}"])
    return table(("pair and task", "passes", "positions", "bytes up", "llm's tokens"), lines)
