"""`hedge wireless study`: adaptive masking beside its baselines, packet by packet on the same
fades.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hedge.common.errors import BadInput
from hedge.common.files import TEXT
from hedge.common.model import LanguageModel, load, vocabulary
from hedge.common.torch_model import use_threads
from hedge.evaluation.quality import chrf_metric
from hedge.evaluation.record import Journal, only_writer
from research.pool import shared
from research.wireless.coded import HuffmanLdpc, bp_decoder, delivered, huffman, range_bits
from research.wireless.masked import BUNDLED_MLM, MaskedLM, entropy
from research.wireless.packet import MaskOrder, adaptive_mask, detect, most_likely, send
from research.wireless.qam import Fade, Qam, rayleigh
from research.wireless.rehearsal import rehearsed_mask
from research.wireless.rules import REHEARSED, RULES
from research.wireless.similarity import Embedding
from research.wireless.summary import show, summary

LENGTH = 128
SHARE = 0.3


def packets(lm: MaskedLM, text: str, count: int, length: int, seed: int) -> list[NDArray[np.int64]]:
    """`count` packets of consecutive tokens, without overlap; the first of more are the same."""
    if lm.context < length:
        raise BadInput(
            f"a packet of {length} tokens is longer than the masked model's context of {lm.context}"
        )
    ids = lm.ids(text)
    most = len(ids) // length
    if count > most:
        raise BadInput(
            f"packets {count} is more than the {most} of {length} tokens that the text holds"
        )
    chosen = np.random.default_rng(seed).permutation(most)[:count] * length
    return [ids[start : start + length] for start in chosen]


def frequencies(lm: MaskedLM) -> NDArray[np.float64]:
    """Of every id that is sent: in the books the bundled model has learned from; a foreign model's
    own where all is masked.
    """
    if lm.bundled:
        counts = (
            np.array(json.loads((BUNDLED_MLM / "frequencies.json").read_text("ascii")), dtype=float)
            + 0.5
        )
        return np.asarray(counts / counts.sum())
    blank = np.full(min(LENGTH, lm.context), lm.mask, np.int64)
    return np.asarray(np.exp(lm.log_priors(blank, [len(blank) // 2])[0]))


@dataclass(frozen=True, slots=True)
class Parts:
    """Where the models of a study are; `slm` and `embedding` may be left out."""

    mlm: str
    slm: str
    embedding: str
    seed: int

    def load(self) -> tuple[MaskedLM, LanguageModel | None, Embedding | None]:
        lm = MaskedLM(self.mlm)
        slm = None if self.slm == "none" else load(self.slm, "slm")
        if slm and slm.tokenizer_fingerprint != vocabulary(lm.words)[1]:
            raise BadInput(
                f"--slm {self.slm} has another tokenizer than the masked model: --slm none leaves range coding out"
            )
        return lm, slm, Embedding(self.embedding) if self.embedding else None


@dataclass(frozen=True, slots=True)
class PacketJob:
    """A packet, and the constellations that it is still to be sent with."""

    number: int
    ids: NDArray[np.int64]
    qams: tuple[int, ...]
    snrs: tuple[float, ...]


class Study:
    """All systems on one packet after the other."""

    def __init__(self, parts: Parts) -> None:
        self._lm, self._slm, self._embedding = parts.load()
        self._seed = parts.seed
        self._words = huffman(frequencies(self._lm))

    def entries(self, job: PacketJob) -> list[dict[str, Any]]:
        """A journal line a constellation."""
        ids = job.ids
        first = self._lm.log_priors(ids, np.arange(len(ids)))
        orders = {rule: MaskOrder(self._lm, ids, rule, first) for rule in RULES}
        count = round(SHARE * len(ids))
        while len(orders["entropy"].order) < count:
            orders["entropy"].advance()
        rng = np.random.default_rng([self._seed, job.number])
        fixed: dict[str, Sequence[int]] = {
            "receiver only": [],
            "random": sorted(rng.choice(len(ids), count, replace=False).tolist()),
            "parallel": np.argsort(entropy(first), kind="stable")[:count].tolist(),
            "sequential": orders["entropy"].order[:count],
        }
        bits = range_bits(self._slm, ids) if self._slm else None
        lines = []
        for order in job.qams:
            qam = Qam(order, self._lm.vocab_size)
            found = list[dict[str, Any]]()
            for snr in job.snrs:
                draw = [self._seed, job.number, round(10 * snr) + 10_000]
                fade = rayleigh(snr, np.random.default_rng(draw))
                masks = dict(fixed)
                for rule in RULES:
                    masks[f"adaptive, {rule}"] = adaptive_mask(qam, fade, orders[rule], len(ids))
                own = np.random.default_rng([*draw, 2])
                masks[f"adaptive, {REHEARSED}"] = rehearsed_mask(self._lm, qam, fade, ids, own)
                arrived = self._arrivals(qam, fade, ids, masks, bits, draw)
                found += [self._entry(job, snr, *one) for one in arrived]
            lines.append({"packet": job.number, "qam": order, "entries": found})
        return lines

    def _arrivals(
        self,
        qam: Qam,
        fade: Fade,
        ids: NDArray[np.int64],
        masks: dict[str, Sequence[int]],
        bits: float | None,
        draw: list[int],
    ) -> list[tuple[str, NDArray[np.int64], int, int]]:
        """System, what it receives, how many tokens it left out, and the symbols that it took."""

        def noise() -> np.random.Generator:
            """The same for every system."""
            return np.random.default_rng([*draw, 1])

        whole = len(ids) * qam.symbols
        found = [("ml", most_likely(send(qam, fade, ids, [], noise()), self._lm.mask), 0, whole)]
        known: dict[tuple[int, ...], NDArray[np.int64]] = {}
        for system, masked in masks.items():
            key = tuple(sorted(masked))
            if key not in known:
                known[key] = detect(self._lm, send(qam, fade, ids, masked, noise()))
            found.append((system, known[key], len(masked), (len(ids) - len(masked)) * qam.symbols))
        coded = HuffmanLdpc(qam, self._words)
        found.append(("huffman + ldpc", coded.carry(ids, fade, noise()), 0, coded.sent(ids)))
        if bits is not None:
            found.append(
                (
                    "range coded",
                    ids if delivered(qam, fade, len(ids), bits) else np.full(len(ids), -1),
                    0,
                    whole,
                )
            )
        return found

    def _entry(
        self,
        job: PacketJob,
        snr: float,
        system: str,
        arrived: NDArray[np.int64],
        masked: int,
        uses: int,
    ) -> dict[str, Any]:
        wanted = self._lm.decode(job.ids)
        text = self._lm.decode([i for i in arrived if 0 <= i < self._lm.vocab_size])
        chrf = float(chrf_metric().sentence_score(text, [wanted]).score)
        entry = {
            "snr_db": snr,
            "system": system,
            "right": int((arrived == job.ids).sum()),
            "chrf": round(chrf, 2),
            "masked": masked,
            "uses": uses,
        }
        if self._embedding:
            entry["similarity"] = round(self._embedding.similarity(text, wanted), 4)
        return entry


_study: list[Study] = []


def _start(parts: Parts) -> None:
    use_threads(1)
    _study[:] = [Study(parts)]


def _do(job: PacketJob) -> list[dict[str, Any]]:
    return _study[0].entries(job)


def study(args: argparse.Namespace) -> None:
    for name, value in (("packets", args.packets), ("jobs", args.jobs)):
        if value < 1:
            raise BadInput(f"{name} {value} is not at least 1")
    for snr in args.snr:
        rayleigh(snr, np.random.default_rng(0))
    for order in args.qam:
        Qam(order, 2)
    path = args.text or BUNDLED_MLM / "held-out.txt"
    try:
        text = path.read_text(TEXT)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8: {error.reason}") from None
    parts = Parts(args.mlm, args.slm, args.embedding, args.seed)
    lm, slm, embedding = parts.load()
    chrf_metric()
    bp_decoder()
    asked = packets(lm, text, args.packets, LENGTH, args.seed)
    with only_writer(args.out):
        header = {
            "kind": "packets",
            "seed": args.seed,
            "snr": args.snr,
            "mlm": lm.fingerprint,
            "slm": slm.fingerprint if slm else "",
            "embedding": embedding.fingerprint if embedding else "",
            "text": hashlib.sha256(text.encode()).hexdigest()[:16],
        }
        journal = Journal(args.out / "packets.jsonl", header, resume=True)
        done = {(line["packet"], line["qam"]) for line in journal.entries}
        jobs = [
            PacketJob(number, ids, left, tuple(args.snr))
            for number, ids in enumerate(asked)
            if (
                left := tuple(
                    order for order in dict.fromkeys(args.qam) if (number, order) not in done
                )
            )
        ]
        for lines in tqdm(
            shared(args.jobs, _start, (parts,), _do, jobs),
            total=len(jobs),
            desc="packets",
            unit="packet",
            disable=None,
        ):
            for line in lines:
                journal.append(line)
        (args.out / "rows.jsonl").unlink(missing_ok=True)
        whole = Journal(
            args.out / "rows.jsonl", {"kind": "wireless", "mlm": lm.fingerprint}, resume=False
        )
        for row in summary(journal.entries, LENGTH):
            whole.append(row)
        rows = summary(
            [
                line
                for line in journal.entries
                if line["packet"] < args.packets and line["qam"] in args.qam
            ],
            LENGTH,
        )
    if args.json:
        sys.stdout.write("".join(json.dumps(row) + "\n" for row in rows))
    else:
        show(rows)
