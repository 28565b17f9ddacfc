"""`hedge wireless study`: adaptive masking beside its baselines, packet by packet on the same fades."""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from tqdm import tqdm

from common.errors import BadInput
from common.model import BUNDLED, CausalLM, bundled_folder, load, use_threads
from evaluation.quality import chrf_metric
from evaluation.record import Journal, only_writer
from evaluation.tables import wide
from wireless.coded import HuffmanLdpc, bp_decoder, delivered, huffman, range_bits
from wireless.masked import MaskedLM, entropy
from wireless.packet import RULES, MaskOrder, adaptive_mask, detect, most_likely, position_bits, send
from wireless.qam import Fade, Qam, rayleigh

LENGTH, SHARE, RESAMPLES = 128, 0.3, 2000
ADAPTIVE = tuple(f"adaptive, {rule}" for rule in RULES)
BASELINES = ("ml", "receiver only", "random", "parallel", "sequential", "huffman + ldpc")


def packets(lm: MaskedLM, text: str, count: int, length: int, seed: int) -> list[NDArray[np.int64]]:
    """`count` packets of consecutive tokens, without overlap; the first of more are the same."""
    if lm.context < length:
        raise BadInput(f"a packet of {length} tokens is longer than the masked model's context of {lm.context}")
    ids = lm.ids(text)
    most = len(ids) // length
    if count > most:
        raise BadInput(f"packets {count} is more than the {most} of {length} tokens that the text holds")
    chosen = np.random.default_rng(seed).permutation(most)[:count] * length
    return [ids[start : start + length] for start in chosen]


def frequencies(lm: MaskedLM) -> NDArray[np.float64]:
    """Of every id that is sent: in the books the bundled model has learned from; a foreign model's own where all is masked."""
    if lm.bundled:
        counts = np.array(json.loads((bundled_folder() / "mlm" / "frequencies.json").read_text("ascii")), dtype=float) + 0.5
        return np.asarray(counts / counts.sum())
    blank = np.full(min(LENGTH, lm.context), lm.mask, np.int64)
    return np.asarray(np.exp(lm.log_priors(blank, [len(blank) // 2])[0]))


class Study:
    """One packet after the other."""

    def __init__(self, lm: MaskedLM, slm: CausalLM | None, order: int, seed: int) -> None:
        self._lm, self._slm, self._seed = lm, slm, seed
        self.qam = Qam(order, lm.vocab_size)
        self._huffman = HuffmanLdpc(self.qam, huffman(frequencies(lm)))

    def entries(self, number: int, ids: NDArray[np.int64], snrs: Sequence[float]) -> list[dict[str, Any]]:
        first = self._lm.log_priors(ids, np.arange(len(ids)))
        orders = {rule: MaskOrder(self._lm, ids, rule, first) for rule in RULES}
        count = round(SHARE * len(ids))
        while len(orders["entropy"].order) < count:
            orders["entropy"].advance()
        rng = np.random.default_rng([self._seed, number])
        fixed = {
            "receiver only": [],
            "random": sorted(rng.choice(len(ids), count, replace=False).tolist()),
            "parallel": np.argsort(entropy(first), kind="stable")[:count].tolist(),
            "sequential": orders["entropy"].order[:count],
        }
        bits = range_bits(self._slm, ids) if self._slm else None
        found = []
        for snr in snrs:
            fade = rayleigh(snr, np.random.default_rng([self._seed, number, round(10 * snr) + 10_000]))
            masks: dict[str, Sequence[int]] = dict(fixed)
            for rule in RULES:
                masks[f"adaptive, {rule}"] = adaptive_mask(self.qam, fade, orders[rule], len(ids))
            found += self._at(number, ids, snr, fade, masks, bits)
        return found

    def _at(
        self, number: int, ids: NDArray[np.int64], snr: float, fade: Fade, masks: dict[str, Sequence[int]], bits: float | None
    ) -> list[dict[str, Any]]:
        def noise() -> np.random.Generator:
            """The same for every system."""
            return np.random.default_rng([self._seed, number, round(10 * snr) + 10_000, 1])

        def entry(system: str, arrived: NDArray[np.int64], masked: int = 0, uses: int | None = None) -> dict[str, Any]:
            return {
                "packet": number, "snr_db": snr, "qam": self.qam.order, "system": system, "masked": masked,
                "accuracy": float((arrived == ids).mean()), "chrf": chrf(self._text(arrived), self._text(ids)),
                "position_bits": position_bits(len(ids), masked), "uses": uses or (len(ids) - masked) * self.qam.symbols,
            }  # fmt: skip

        found = [entry("ml", most_likely(send(self.qam, fade, ids, [], noise()), self._lm.mask))]
        known: dict[tuple[int, ...], NDArray[np.int64]] = {}
        for system, masked in masks.items():
            key = tuple(sorted(masked))
            if key not in known:
                known[key] = detect(self._lm, send(self.qam, fade, ids, masked, noise()))
            found.append(entry(system, known[key], len(masked)))
        found.append(entry("huffman + ldpc", self._huffman.carry(ids, fade, noise()), uses=self._huffman.sent(ids)))
        if bits is not None:
            arrived = ids if delivered(self.qam, fade, len(ids), bits) else np.full(len(ids), -1)
            found.append(entry("range coded", arrived, uses=len(ids) * self.qam.symbols))
        return found

    def _text(self, ids: NDArray[np.int64]) -> str:
        return self._lm.decode([i for i in ids if 0 <= i < self._lm.vocab_size])


def chrf(found: str, wanted: str) -> float:
    return float(chrf_metric().sentence_score(found, [wanted]).score)


def summary(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per SNR and system; of every baseline the adaptive rules' paired gain in token accuracy with its 95 % interval."""
    rows = []
    for qam, snr in sorted({(entry["qam"], entry["snr_db"]) for entry in entries}):
        here = [entry for entry in entries if (entry["qam"], entry["snr_db"]) == (qam, snr)]
        table = {
            system: {e["packet"]: e for e in here if e["system"] == system}
            for system in dict.fromkeys(e["system"] for e in here)
        }
        numbers = sorted(set.intersection(*(set(one) for one in table.values())))
        accuracy = {system: np.array([one[n]["accuracy"] for n in numbers]) for system, one in table.items()}
        picked = np.random.default_rng(0).integers(0, len(numbers), (RESAMPLES, len(numbers)))
        for system, one in table.items():
            row: dict[str, Any] = {
                "qam": qam, "snr_db": snr, "system": system, "packets": len(numbers),
                "accuracy": float(accuracy[system].mean()),
                "chrf": float(np.mean([one[n]["chrf"] for n in numbers])),
                "masked": float(np.mean([one[n]["masked"] for n in numbers])) / LENGTH,
                "position_bits": float(np.mean([one[n]["position_bits"] for n in numbers])),
                "uses": float(np.mean([one[n]["uses"] for n in numbers])),
            }  # fmt: skip
            for rule in ADAPTIVE:
                gain = accuracy[rule] - accuracy[system]
                low, high = np.quantile(gain[picked].mean(axis=1), [0.025, 0.975])
                row[f"gain of {rule}"] = [float(gain.mean()), float(low), float(high)]
            rows.append(row)
    return rows


def add_study(parser: Any) -> None:
    parser.add_argument("--packets", type=int, default=200)
    parser.add_argument("--snr", type=float, nargs="+", default=[0.0, 5.0, 10.0, 15.0], metavar="DB")
    parser.add_argument("--qam", type=int, nargs="+", default=[4], metavar="ORDER", help="4, 16 (default 4)")
    parser.add_argument("--text", type=Path, metavar="FILE", help="default: the bundled tales, which no model has seen")
    parser.add_argument("--slm", default=BUNDLED, help="for range coding; `none`: without")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="packets.jsonl; goes on where it ended")
    parser.add_argument("--json", action="store_true", help="the rows on stdout instead of a table")


def study(args: argparse.Namespace, make: Callable[[], MaskedLM]) -> None:
    if args.packets < 1:
        raise BadInput(f"packets {args.packets} is not at least 1")
    for snr in args.snr:
        rayleigh(snr, np.random.default_rng(0))
    path = args.text or bundled_folder() / "mlm" / "held-out.txt"
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8: {error.reason}") from None
    use_threads(args.threads)
    lm = make()
    slm = None if args.slm == "none" else load(args.slm, "slm")
    if slm and slm.tokenizer.get_vocab() != lm.words:
        raise BadInput(f"--slm {args.slm} has another tokenizer than the masked model: --slm none leaves range coding out")
    chrf_metric()
    bp_decoder()
    studies = [Study(lm, slm, order, args.seed) for order in args.qam]
    asked = packets(lm, text, args.packets, LENGTH, args.seed)
    with only_writer(args.out):
        header = {
            "kind": "wireless", "seed": args.seed, "snr": args.snr, "mlm": lm.fingerprint,
            "slm": slm.fingerprint if slm else "", "text": hashlib.sha256(text.encode()).hexdigest()[:16],
        }  # fmt: skip
        journal = Journal(args.out / "packets.jsonl", header, resume=True)
        done = {(line["packet"], line["qam"]) for line in journal.entries}
        for number, ids in enumerate(tqdm(asked, desc="packets", unit="packet", disable=None)):
            for one in studies:
                if (number, one.qam.order) not in done:
                    found = one.entries(number, ids, args.snr)
                    journal.append({"packet": number, "qam": one.qam.order, "entries": found})
        wanted = [line for line in journal.entries if line["packet"] < args.packets and line["qam"] in args.qam]
        rows = summary([entry for line in wanted for entry in line["entries"]])
    if args.json:
        sys.stdout.write("".join(json.dumps(row) + "\n" for row in rows))
    else:
        show(rows)


def show(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title=f"token accuracy, {rows[0]['packets']} packets; gain of the adaptive rules with 95 % intervals")
    for heading in ("QAM", "SNR, dB", "system", "accuracy", "chrF", "masked", *(f"gain of {rule}" for rule in ADAPTIVE)):
        table.add_column(heading, justify="left" if heading == "system" else "right")
    for row in rows:
        gains = [row[f"gain of {rule}"] for rule in ADAPTIVE]
        table.add_row(
            str(row["qam"]), f"{row['snr_db']:g}", row["system"], f"{row['accuracy']:.3f}", f"{row['chrf']:.1f}",
            f"{row['masked']:.2f}", *(f"{mean:+.3f} ({low:+.3f} to {high:+.3f})" for mean, low, high in gains),
        )  # fmt: skip
    wide().print(table)
